"""Table 4: the OPT against an unconstrained MLP in its place, on three scenarios. See study.py for the options."""

from study import Study, main
from units import Unit

ENVS = tuple(f"smax_{race}_5v5" for race in ("protoss", "terran", "zerg"))
ALGOS = ("me_qmix", "me_qmix_mlp")
STUDY = Study(
    name="table_4",
    title="Table 4: the order-preserving transformation against an MLP",
    about="Win rates of the argmax of the policies (`mode`, tabulated) and of the argmax of the utilities (`greedy`):\n"
    "the same for an OPT, not for an MLP. The paper (Table 4) says that the OPT is better on all three.",
    units=tuple(Unit(env, algo) for env in ENVS for algo in ALGOS),
    paper={(env, "me_qmix"): "above the MLP" for env in ENVS},
    shows=("mode", "greedy"),
    against=(("me_qmix", "me_qmix_mlp"),),
)

if __name__ == "__main__":
    main(STUDY)
