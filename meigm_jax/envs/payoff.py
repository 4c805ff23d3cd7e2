"""The reward of each joint action of a matrix game. Imports neither jax nor NumPy before they are needed: a
wrong command must be answered at once."""

from __future__ import annotations

from typing import Any

from meigm_jax.registry import ConfigError

TABLE_1 = [[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]]  # of the ME-IGM paper


def check_payoff(payoff: Any, path: str = "env.options.payoff") -> Any:
    """`payoff`, or Table 1 where it is empty. Raises ConfigError unless it is numbers, square or (hyper)cubic."""
    if isinstance(payoff, list | tuple) and not payoff:
        return TABLE_1
    import numpy as np

    try:
        table = np.asarray(payoff)
    except ValueError:  # ragged
        table = np.empty(0)
    if table.ndim < 2 or table.dtype.kind not in "if" or len(set(table.shape)) != 1:
        raise ConfigError(f"{path}: expected a nested list of numbers, A x A (x A ...), got {payoff!r}")
    if not np.all(np.abs(table) <= np.finfo(np.float32).max):
        raise ConfigError(f"{path}: expected finite float32 numbers, got {payoff!r}")
    return payoff
