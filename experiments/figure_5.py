"""Figure 5: does QMIX catch up when its epsilon-greedy exploration lasts longer? See study.py for the options."""

from study import Study, main
from units import Unit

ENV = "smax_protoss_5v5"
STUDY = Study(
    name="figure_5",
    title="Figure 5: longer epsilon-greedy exploration",
    about="Greedy win rate. The paper anneals QMIX's epsilon over more env steps (how many is not given; here ten\n"
    "times as many) and finds no gain over QMIX, and ME-QMIX above both.",
    units=tuple(Unit(ENV, algo) for algo in ("me_qmix", "qmix", "qmix_long_epsilon")),
    paper={(ENV, "me_qmix"): "best", (ENV, "qmix_long_epsilon"): "no better than QMIX"},
    against=(("me_qmix", "qmix"), ("qmix_long_epsilon", "qmix")),
)

if __name__ == "__main__":
    main(STUDY)
