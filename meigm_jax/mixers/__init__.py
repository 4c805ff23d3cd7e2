"""Mixers: local utilities to one joint value. One file, one line here, one YAML."""

from meigm_jax.registry import Part

MIXERS = {
    "vdn": Part("meigm_jax.mixers.vdn:make"),
    "qmix": Part(
        "meigm_jax.mixers.qmix:make", embed_dim=32, hypernet_dim=64, value_dim=64, mask_dead=False, hypernet_layers=2
    ),
    "qplex": Part(
        "meigm_jax.mixers.qplex:make", hypernet_dim=64, num_kernels=4, kernel_dim=64, layers=2, weighted_head=True
    ),
    "qatten": Part(
        "meigm_jax.mixers.qatten:make", num_heads=4, embed_dim=32, hypernet_dim=64, value_dim=32, weighted=True
    ),
}
