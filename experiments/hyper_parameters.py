"""A search for hyper-parameters of ME-QMIX and QMIX on SMAX, as many trials for both. See study.py for the options.

A unit is one grid, or one value of what is not a number of `hyper`; each point has two seeds and 400k env steps.
"""

from study import Study, main
from units import Budget, Unit

MAPS = ("smax_3m", "smax_5v5", "smax_protoss_5v5")
TRIAL = Budget(4e5, 2, 128)
BOTH = {  # for either algorithm
    "rate": ("sweep.learning_rate=[2.5e-4,5e-4,1e-3]", "sweep.td_lambda=[0.4,0.6,0.8]"),
    "scale": ("env.reward_scale=20",),
    "updates": ("train.updates_per_chunk=16",),
    "target": ("train.target_update_interval=200",),
    "batch": ("train.batch_size=32",),
}
ELSE = {  # where the map's own value is that of `BOTH`
    "smax_3m": {"updates": ("train.updates_per_chunk=8",), "target": ("train.target_update_interval=64",)},
}
OWN = {  # six points of what only one of them has
    "me_qmix": ("sweep.target_entropy=[0.12,0.24,0.48]", "sweep.alpha_start=[0.03,0.3]"),
    "qmix": ("sweep.epsilon_end=[0.01,0.05,0.1]", "sweep.epsilon_decay_steps=[50_000,200_000]"),
}


def grids(env: str, algo: str) -> list[Unit]:
    trials = {"exploration": OWN[algo], **BOTH, **ELSE.get(env, {})}
    return [Unit(env, f"{algo}_{name}", (f"algo={algo}", *more), TRIAL) for name, more in trials.items()]


STUDY = Study(
    name="hyper_parameters",
    title="Hyper-parameters of ME-QMIX and QMIX on SMAX",
    about="Greedy win rates after 400k env steps, two seeds: what is not named is as in `configs/`. Both algorithms\n"
    "get the same number of trials. Two seeds tell a difference of 0.1, not one of 0.03.",
    units=tuple(unit for env in MAPS for algo in OWN for unit in grids(env, algo)),
    apart=True,
)

if __name__ == "__main__":
    main(STUDY)
