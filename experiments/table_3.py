"""Table 3: QMIX, +Entropy (no OPT) and +OPT (ME-QMIX) on the three 5v5 scenarios. See study.py for the options."""

from study import Study, main
from units import Unit

ALGOS = ("qmix", "entropy_qmix", "me_qmix")
PAPER = {  # win rate and standard deviation over four seeds (arXiv 2406.13930, Table 3)
    "smax_protoss_5v5": ("0.68 +- 0.04", "0.73 +- 0.05", "0.74 +- 0.04"),
    "smax_terran_5v5": ("0.68 +- 0.05", "0.67 +- 0.04", "0.70 +- 0.05"),
    "smax_zerg_5v5": ("0.41 +- 0.05", "0.40 +- 0.04", "0.48 +- 0.05"),
}
STUDY = Study(
    name="table_3",
    title="Table 3: is the order-preserving transformation needed?",
    about="Greedy win rates. `entropy_qmix` learns soft policies without a transformation (the paper's +Entropy),\n"
    "`me_qmix` with one (+OPT).",
    units=tuple(Unit(env, algo) for env in PAPER for algo in ALGOS),
    paper={(env, algo): row[k] for env, row in PAPER.items() for k, algo in enumerate(ALGOS)},
    against=(("me_qmix", "qmix"), ("me_qmix", "entropy_qmix"), ("entropy_qmix", "qmix")),
)

if __name__ == "__main__":
    main(STUDY)
