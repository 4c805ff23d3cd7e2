"""Parametrised blocks: agents, order-preserving transformations (OPT), temperatures, layers."""

from meigm_jax.registry import OneOf, Part

AGENTS = {
    "gru": Part("meigm_jax.modules.agent:make_gru", hidden_dim=64),
    "mlp": Part("meigm_jax.modules.agent:make_mlp", hidden_dim=64),
    "cnn": Part("meigm_jax.modules.agent:make_cnn", hidden_dim=64, channels=32),
}
OPTS = {
    "affine": Part("meigm_jax.modules.opt:make_affine", hypernet_dim=64, mask_dead=True),
    "two_layer": Part("meigm_jax.modules.opt:make_two_layer", hypernet_dim=64, width=16, residual=True, mask_dead=True),
    "identity": Part("meigm_jax.modules.opt:make_identity"),
    "mlp": Part("meigm_jax.modules.opt:make_mlp", hypernet_dim=64, width=16, mask_dead=True),
}
TEMPERATURES = {
    "learned": Part("meigm_jax.modules.temperature:make_learned", target_per=OneOf("alive", "team")),
    "fixed": Part("meigm_jax.modules.temperature:make_fixed"),
    "schedule": Part("meigm_jax.modules.temperature:make_schedule"),
}
