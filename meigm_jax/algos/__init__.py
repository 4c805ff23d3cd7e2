"""Learning rules. One file, one line here, one YAML; variants that swap parts are only a YAML.

After its maker, a rule names the parts of `algo` that it is made of, besides the agent; then its options.
"""

from meigm_jax.registry import Checked, OneOf, Rule

RULES = {
    "value_decomposition": Rule(
        "meigm_jax.algos.value_decomposition:make",
        ("mixer", "opt", "temperature"),
        exploration=OneOf("softmax", "epsilon_greedy"),
        entropy=OneOf("exact", "sampled"),
    ),
    "soft_qmix": Rule(
        "meigm_jax.algos.soft_qmix:make",
        ("mixer", "opt", "temperature"),
        entropy=OneOf("sampled", "exact"),
        hypernet_dim=64,
        width=16,
        half_weights=False,
    ),
    "weighted_qmix": Rule(
        "meigm_jax.algos.weighted_qmix:make",
        ("mixer",),
        weighting=OneOf("central", "optimistic"),
        low_weight=Checked(0.1, "meigm_jax.registry:share"),
        central_dim=256,
    ),
    "qtran": Rule(
        "meigm_jax.algos.qtran:make",
        inputs=OneOf("features", "actions"),
        layers=3,
        embed_dim=64,
        optimal_weight=1.0,
        nonoptimal_weight=0.1,
    ),
    "quantile_mixture": Rule(
        "meigm_jax.algos.quantile_mixture:make",
        ("mixer",),
        num_quantiles=8,
        target_quantiles=8,
        acting_quantiles=32,
        num_cosines=64,
        double_q=False,
    ),
    "independent": Rule("meigm_jax.algos.independent:make"),
}
