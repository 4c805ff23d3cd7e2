"""Figure 6: ME-QMIX's temperature, its learning rate and its target entropy. See study.py for the options.

Each panel is one program: every value with every seed, compiled once.
"""

from study import Study, main
from units import Unit

ENV = "smax_protoss_5v5"
RATES = Unit(
    ENV, "me_qmix_rate", ("algo=me_qmix", "hyper.alpha_start=0.3", "sweep.alpha_learning_rate=[0.001,0.01,0.1]")
)
TARGETS = Unit(ENV, "me_qmix_target", ("algo=me_qmix", "sweep.target_entropy=[0.12,0.24,0.48]"))
STUDY = Study(
    name="figure_6",
    title="Figure 6: the temperature's learning rate and target entropy",
    about="Greedy win rate, and the entropy of the policies: nats, summed over agents. The paper: a smaller learning\n"
    "rate keeps entropy high at first, which is weaker early and better in the end; the target entropy matters\n"
    "little. Where the learning rate is swept the temperature starts at 0.3, ten times the default, to have a way to\n"
    "fall.",
    units=(RATES, TARGETS),
    paper={
        (ENV, f"me_qmix_rate alpha_learning_rate={rate}"): words
        for rate, words in (("0.001", "best"), ("0.1", "worst"))
    },
    shows=("greedy", "entropy"),
    apart=True,
)

if __name__ == "__main__":
    main(STUDY)
