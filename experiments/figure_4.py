"""Figure 4: two Overcooked kitchens, ME-QMIX, ME-QPLEX, QMIX and QPLEX. See study.py for the options."""

from study import Study, main
from units import Unit

ENVS = ("overcooked_cramped_room", "overcooked_asymm_advantages")
ALGOS = ("me_qmix", "me_qplex", "qmix", "qplex")
STUDY = Study(
    name="figure_4",
    title="Figure 4: Overcooked",
    about="Return of the greedy policies, 20 per soup. The paper's curves, to 10M env steps and without numbers, have\n"
    "ME-QMIX and ME-QPLEX converge faster and higher in the early stages than QMIX and QPLEX.",
    units=tuple(Unit(env, algo) for env in ENVS for algo in ALGOS),
    paper={(env, algo): "faster, higher early on" for env in ENVS for algo in ALGOS[:2]},
    against=(("me_qmix", "qmix"), ("me_qplex", "qplex")),
)

if __name__ == "__main__":
    main(STUDY)
