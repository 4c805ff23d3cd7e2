"""Mixers: local utilities to one joint value. One file, one line here, one YAML."""

from meigm_jax.modules import HYPERNET_DIM, MASK_DEAD
from meigm_jax.registry import Option, Part

VALUE_MEANING = "hidden units of the state value that the mixer adds"

MIXERS = {
    "vdn": Part("meigm_jax.mixers.vdn:make"),
    "qmix": Part(
        "meigm_jax.mixers.qmix:make",
        embed_dim=Option(32, "width of the mixing layer"),
        hypernet_dim=HYPERNET_DIM,
        value_dim=Option(64, VALUE_MEANING),
        mask_dead=MASK_DEAD._replace(default=False),
        hypernet_layers=Option(2, "Linear layers that make the mixing weights", (1, 2)),
    ),
    "qplex": Part(
        "meigm_jax.mixers.qplex:make",
        hypernet_dim=HYPERNET_DIM,
        num_kernels=Option(4, "attention kernels over joint actions"),
        kernel_dim=Option(64, "hidden units of the kernels"),
        layers=Option(2, "Linear layers of each kernel"),
        weighted_head=Option(True, "utilities are scaled and shifted by the state first"),
    ),
    "qatten": Part(
        "meigm_jax.mixers.qatten:make",
        num_heads=Option(4, "attention heads"),
        embed_dim=Option(32, "width of keys and queries"),
        hypernet_dim=HYPERNET_DIM,
        value_dim=Option(32, VALUE_MEANING),
        weighted=Option(True, "heads are weighed by the state, else equally"),
    ),
}
