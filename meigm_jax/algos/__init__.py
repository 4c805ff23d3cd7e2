"""Learning rules. One file, one line here, one YAML; variants that swap parts are only a YAML."""

from meigm_jax.registry import OneOf, Part

RULES = {
    "value_decomposition": Part(
        "meigm_jax.algos.value_decomposition:make",
        exploration=OneOf("softmax", "epsilon_greedy"),
        entropy=OneOf("exact", "sampled"),
    ),
}
