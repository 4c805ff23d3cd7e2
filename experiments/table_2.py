"""Table 2: the fifteen SMAC-v2 scenarios, ME-QMIX and ME-QPLEX beside QMIX and QPLEX. See study.py for the options."""

from study import Study, main
from units import Unit

from meigm_jax import envs

ALGOS = ("me_qmix", "me_qplex", "qmix", "qplex")
# Win rates in percent (arXiv 2406.13930, Table 2), with the spread it gives; QMIX's and QPLEX's are quoted there from
# Bui et al. 2024.
PAPER = {
    "protoss_5v5": ("75.9 +- 3.0", "69.8 +- 1.8", "70.2", "53.3"),
    "protoss_10v10": ("78.5 +- 2.7", "78.7 +- 3.4", "69.0", "53.7"),
    "protoss_10v11": ("50.4 +- 2.9", "44.9 +- 3.2", "42.5", "22.8"),
    "protoss_20v20": ("73.9 +- 3.0", "38.3 +- 4.0", "69.7", "27.2"),
    "protoss_20v23": ("23.4 +- 1.0", "18.7 +- 1.3", "16.5", "4.8"),
    "terran_5v5": ("70.2 +- 2.6", "70.0 +- 4.8", "58.4", "70.0"),
    "terran_10v10": ("72.6 +- 1.8", "69.4 +- 0.2", "65.8", "66.1"),
    "terran_10v11": ("49.6 +- 1.6", "51.0 +- 0.4", "39.4", "41.4"),
    "terran_20v20": ("59.3 +- 1.3", "45.1 +- 7.2", "57.6", "23.9"),
    "terran_20v23": ("18.7 +- 0.7", "17.4 +- 2.9", "10.0", "7.0"),
    "zerg_5v5": ("50.8 +- 4.6", "52 +- 3.9", "37.2", "47.8"),
    "zerg_10v10": ("49.1 +- 0.6", "42.9 +- 1.8", "40.8", "41.6"),
    "zerg_10v11": ("32.6 +- 1.7", "45.3 +- 0.6", "28.0", "31.1"),
    "zerg_20v20": ("34.3 +- 5.2", "42.1 +- 5.1", "30.4", "15.8"),
    "zerg_20v23": ("14.8 +- 6.4", "17.5 +- 3.2", "10.1", "6.7"),
}
# Most telling first: small teams of every race, then the larger ones.
SCENARIOS = [f"{race}_{size}" for size in envs.TEAM_SIZES for race in envs.RACES]
STUDY = Study(
    name="table_2",
    title="Table 2: SMAC-v2's scenarios",
    about="Greedy win rates. The paper plays StarCraft II against its built-in AI for 10M env steps; here SMAX's\n"
    "heuristic plays the enemy, so that numbers compare between algorithms, not between simulators.",
    units=tuple(Unit(f"smax_{name}", algo) for name in SCENARIOS for algo in ALGOS),
    paper={(f"smax_{name}", algo): f"{PAPER[name][k]} %" for name in SCENARIOS for k, algo in enumerate(ALGOS)},
    against=(("me_qmix", "qmix"), ("me_qplex", "qplex")),
)

if __name__ == "__main__":
    main(STUDY)
