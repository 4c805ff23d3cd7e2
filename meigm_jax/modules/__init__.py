"""Parametrised blocks: agents, order-preserving transformations (OPT), temperatures, layers."""

from meigm_jax.registry import Option, Part

HIDDEN_DIM = Option(64, "units of the agent's hidden layers")
AGENTS = {
    "gru": Part("meigm_jax.modules.agent:make_gru", hidden_dim=HIDDEN_DIM),
    "mlp": Part("meigm_jax.modules.agent:make_mlp", hidden_dim=HIDDEN_DIM),
    "cnn": Part(
        "meigm_jax.modules.agent:make_cnn",
        hidden_dim=HIDDEN_DIM,
        channels=Option(32, "filters of each convolution"),
    ),
}

LEARNED = ["opt_learning_rate"]
HYPERNET_DIM = Option(64, "hidden units of the networks that make weights from the state")
WIDTH = Option(16, "units between the two layers")
MASK_DEAD = Option(True, "leave out agents that have no choice to make")
OPTS = {
    "affine": Part("meigm_jax.modules.opt:make_affine", reads=LEARNED, hypernet_dim=HYPERNET_DIM, mask_dead=MASK_DEAD),
    "two_layer": Part(
        "meigm_jax.modules.opt:make_two_layer",
        reads=LEARNED,
        hypernet_dim=HYPERNET_DIM,
        width=WIDTH,
        residual=Option(True, "add the input to the output"),
        mask_dead=MASK_DEAD,
    ),
    "identity": Part("meigm_jax.modules.opt:make_identity"),
    "mlp": Part(
        "meigm_jax.modules.opt:make_mlp", reads=LEARNED, hypernet_dim=HYPERNET_DIM, width=WIDTH, mask_dead=MASK_DEAD
    ),
}

TEMPERATURES = {
    "learned": Part(
        "meigm_jax.modules.temperature:make_learned",
        reads="alpha_start alpha_learning_rate alpha_min alpha_max target_entropy".split(),
        target_per=Option("alive", "the entropy target counts the agents alive, or the whole team", ("alive", "team")),
    ),
    "fixed": Part("meigm_jax.modules.temperature:make_fixed", reads=["alpha_start"]),
    "schedule": Part(
        "meigm_jax.modules.temperature:make_schedule", reads="alpha_start alpha_end alpha_decay_steps".split()
    ),
}
