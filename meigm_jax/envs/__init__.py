"""Environments behind one interface. One file is one suite; one line here names it.

`make(name, **options) -> Env` is the bare environment: its observations, states and rewards are JaxMARL's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meigm_jax.registry import ConfigError, Part, nearest

if TYPE_CHECKING:
    from meigm_jax.types import Env

SMAX_MAPS = (
    "5v5 10v10 20v20 3m 2s3z 25m 3s5z 8m 5m_vs_6m 10m_vs_11m 27m_vs_30m "
    "3s5z_vs_3s6z 3s_vs_5z 6h_vs_8z 8m_vs_9m"
).split()  # fmt: skip

SUITES = {
    "smax": Part("meigm_jax.envs.smax:make", max_steps=100, walls_cause_death=True, see_enemy_actions=True),
    "matrix_game": Part("meigm_jax.envs.matrix:make", payoff=[]),
}
NAMES = {"matrix_game": "matrix_game", **{f"smax_{m}": "smax" for m in SMAX_MAPS}}  # environment -> suite


def check_name(name: str) -> None:
    """Raise ConfigError with the nearest names when `name` is no environment."""
    if name not in NAMES:
        raise ConfigError(f"env.name: unknown environment '{name}'; {nearest(name, NAMES)}")


def suite_of(name: str) -> Part:
    """The suite that makes the environment `name`."""
    return SUITES[NAMES[name]]


def make(name: str, **options: Any) -> Env:
    """The bare environment `name`. Raises ConfigError on an unknown name or option, or a wrong option value."""
    check_name(name)
    return suite_of(name).load()(name, **options)
