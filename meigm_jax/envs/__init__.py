"""Environments behind one interface. One file is one suite; one entry here names it.

`make(name, **options) -> Env` is the bare environment: its observations, states and rewards are the suite's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meigm_jax.envs.ids import check_id
from meigm_jax.envs.payoff import check_payoff
from meigm_jax.envs.sight import check_sight_range
from meigm_jax.registry import ConfigError, OpenPart, Option, Part, fraction, nearest

if TYPE_CHECKING:
    from meigm_jax.types import Env

SMAX_MAPS = (
    "5v5 10v10 20v20 3m 2s3z 25m 3s5z 8m 5m_vs_6m 10m_vs_11m 27m_vs_30m "
    "3s5z_vs_3s6z 3s_vs_5z 6h_vs_8z 8m_vs_9m"
).split()  # fmt: skip

RACES = "protoss terran zerg".split()
TEAM_SIZES = "5v5 10v10 10v11 20v20 20v23".split()

TIME_LIMIT = "time limit of an episode, env steps"

# What every SMAX map takes.
SMAX_OPTIONS: dict[str, Any] = {
    "max_steps": Option(100, TIME_LIMIT),
    "walls_cause_death": Option(True, "a unit that leaves the map dies"),
    "see_enemy_actions": Option(True, "observations hold the enemies' last actions"),
    "sight_range": Option(
        None,
        "how far allied units see, map units; null: as far as their type does; 0: themselves alone",
        check=check_sight_range,
    ),
    "simulator": Option(
        "fast",
        "SMAX's rules as batched arithmetic, or JaxMARL's own, slower code; the results are the same",
        ("fast", "jaxmarl"),
    ),
}
UNIT_TYPES = Option(
    "three", "of a race: all three, weights 0.45 0.45 0.1, or the two that JaxMARL has, equally often", ("three", "two")
)

SHAPING = "shaping_start shaping_decay_steps".split()  # what shaped rewards read
OVERCOOKED_LAYOUTS = "cramped_room asymm_advantages coord_ring forced_coord counter_circuit".split()


class Suite(Part):
    """Environments of one maker, and what is known before it is imported.

    `limit` tells the longest possible episode from the options.
    """

    def __init__(
        self, target: str, limit: Callable[[Mapping[str, Any]], int], *, reads: Sequence[str] = (), **options: Option
    ):
        super().__init__(target, reads=reads, **options)
        self.limit = limit


def one_later(options: Mapping[str, Any]) -> int:
    """JaxMARL's SMAX and MPE compare the step count with the limit before they increment it."""
    return options["max_steps"] + 1


# Names of a suite's environments -> the suite: its maker, its time limit and the options it takes.
SUITES = {
    tuple(f"smax_{map_name}" for map_name in SMAX_MAPS): Suite("meigm_jax.envs.smax:make", one_later, **SMAX_OPTIONS),
    tuple(f"smax_{race}_{size}" for race in RACES for size in TEAM_SIZES): Suite(
        "meigm_jax.envs.smacv2:make", one_later, **SMAX_OPTIONS, unit_types=UNIT_TYPES
    ),
    tuple(f"overcooked_{layout}" for layout in OVERCOOKED_LAYOUTS): Suite(
        "meigm_jax.envs.overcooked:make",
        lambda options: options["max_steps"],
        reads=SHAPING,
        max_steps=Option(400, TIME_LIMIT),
        compact=Option(
            True, "inputs without what never changes in this kitchen; false: whole images, which a cnn needs"
        ),
    ),
    ("mpe_simple_spread",): Suite(
        "meigm_jax.envs.mpe:make",
        one_later,
        num_agents=Option(3, "agents"),
        num_landmarks=Option(3, "landmarks"),
        local_ratio=Option(
            0.5, "weight of an agent's own collisions in its reward, against the team's distances", check=fraction
        ),
        max_steps=Option(25, TIME_LIMIT),
    ),
    ("jaxmarl",): OpenPart(
        "meigm_jax.envs.jaxmarl:make",
        time_limit=Option(None, "env steps after which an episode is cut; null: the environment's own limit"),
        team_reward=Option("sum", "of the agents' rewards", ("sum", "mean")),
    ),
    ("matrix_game",): Suite(
        "meigm_jax.envs.matrix:make",
        lambda _: 1,
        payoff=Option(
            [],
            "reward of each joint action: nested lists, an axis per agent; []: the paper's Table 1",
            check=check_payoff,
        ),
    ),
}
NAMES = {name: suite for names, suite in SUITES.items() for name in names}  # environment -> its suite

_made: dict[str, Env] = {}  # environments by name and options

BY_ID = "jaxmarl"  # stands for every environment of JaxMARL: jaxmarl_<id>


def suite_of(name: str) -> Part:
    """The suite that makes the environment `name`. Raises ConfigError with the nearest names where there is none."""
    if name == BY_ID:
        raise ConfigError("env.id: +env=jaxmarl needs the id of a JaxMARL environment, env.id=MPE_simple_reference_v3")
    if name.startswith(f"{BY_ID}_"):
        check_id(name.removeprefix(f"{BY_ID}_"))
        return NAMES[BY_ID]
    if name not in NAMES:
        raise ConfigError(f"env.name: unknown environment '{name}'; {nearest(name, NAMES)}")
    return NAMES[name]


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the environment `name`, with the values given. Raises ConfigError on a wrong name or option."""
    return suite_of(name).complete(options, "env.options")


def episode_limit(name: str, options: Mapping[str, Any]) -> int | None:
    """The longest possible episode, in steps; None where only the environment itself can tell."""
    suite = suite_of(name)
    return suite.limit(options) if isinstance(suite, Suite) else None


def make(name: str, **options: Any) -> Env:
    """The bare environment `name`. Raises ConfigError on an unknown name or option, or a wrong option value.

    The same name and options give the same object: JaxMARL's methods are jitted per object, and a second one would
    compile everything again.
    """
    options = check_options(name, options)
    key = repr((name, sorted(options.items())))
    if key not in _made:
        _made[key] = suite_of(name).load()(name, **options)
    return _made[key]
