"""Parametrised blocks: agents, order-preserving transformations (OPT), temperatures, layers.

After its maker, a temperature names the numbers of `hyper` that it depends on; then its options.
"""

from meigm_jax.registry import OneOf, Part, TemperaturePart

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
    "learned": TemperaturePart(
        "meigm_jax.modules.temperature:make_learned",
        ("alpha_start", "alpha_learning_rate", "alpha_min", "alpha_max", "target_entropy"),
        target_per=OneOf("alive", "team"),
    ),
    "fixed": TemperaturePart("meigm_jax.modules.temperature:make_fixed", ("alpha_start",)),
    "schedule": TemperaturePart(
        "meigm_jax.modules.temperature:make_schedule", ("alpha_start", "alpha_end", "alpha_decay_steps")
    ),
}
