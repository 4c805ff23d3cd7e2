"""Learning rules. One file, one line here, one YAML; variants that swap parts are only a YAML.

After its maker, a rule names the parts of `algo` that it is made of, besides the agent; then its options.
"""

from meigm_jax.modules import HYPERNET_DIM, WIDTH
from meigm_jax.registry import Option, Rule, fraction

EPSILON = "epsilon_start epsilon_end epsilon_decay_steps".split()  # what epsilon-greedy exploration reads
ENTROPY = "the policy's entropy: the sum over actions, or the log-probability of a sampled one"

RULES = {
    "me_igm": Rule(
        "meigm_jax.algos.me_igm:make",
        ("mixer", "opt", "temperature"),
        entropy=Option("exact", ENTROPY, ("exact", "sampled")),
    ),
    "value_decomposition": Rule("meigm_jax.algos.value_decomposition:make", ("mixer",), reads=EPSILON),
    "soft_qmix": Rule(
        "meigm_jax.algos.soft_qmix:make",
        ("mixer", "opt", "temperature"),
        entropy=Option("sampled", ENTROPY, ("exact", "sampled")),
        hypernet_dim=HYPERNET_DIM,
        width=WIDTH,
        half_weights=Option(False, "rows where Q_tot lies between the OPT's sum and its target count half"),
    ),
    "weighted_qmix": Rule(
        "meigm_jax.algos.weighted_qmix:make",
        ("mixer",),
        reads=EPSILON,
        weighting=Option("central", "which rows count in full: CW-QMIX, or OW-QMIX", ("central", "optimistic")),
        low_weight=Option(0.1, "of a row whose value is thought too high", check=fraction),
        central_dim=Option(256, "hidden units of the central value"),
    ),
    "qtran": Rule(
        "meigm_jax.algos.qtran:make",
        reads=EPSILON,
        inputs=Option(
            "features",
            "what the joint value reads besides the state: the agents' features and actions, or actions alone",
            ("features", "actions"),
        ),
        layers=Option(3, "Linear layers of the joint value"),
        embed_dim=Option(64, "width of the joint value's hidden layers"),
        optimal_weight=Option(
            1.0, "of the loss that holds the sum of utilities to the joint value at the greedy actions"
        ),
        nonoptimal_weight=Option(0.1, "of the loss that keeps the sum of utilities above the joint value"),
    ),
    "quantile_mixture": Rule(
        "meigm_jax.algos.quantile_mixture:make",
        ("mixer",),
        reads=EPSILON,
        num_quantiles=Option(8, "quantiles of each agent's return in a gradient step"),
        target_quantiles=Option(8, "quantiles of the targets"),
        acting_quantiles=Option(32, "quantiles, evenly spaced, whose mean is the utility when acting"),
        num_cosines=Option(64, "cosines that tell a quantile's fraction"),
        double_q=Option(False, "the online network chooses the next actions, else the target network"),
    ),
    "independent": Rule("meigm_jax.algos.independent:make", reads=EPSILON),
}
