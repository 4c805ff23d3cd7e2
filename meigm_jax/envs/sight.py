"""What `sight_range` may be. Imports no jax: options are checked before anything is compiled."""

from __future__ import annotations

from typing import Any

from meigm_jax.registry import ConfigError, scalar


def check_sight_range(value: Any, path: str) -> float | None:
    """`value` as a distance in map units of at least 0, or None. Raises ConfigError under `path` on anything else."""
    if value is None:
        return None
    distance = scalar(float, value, path)
    if distance < 0:
        raise ConfigError(f"{path}: expected a distance of at least 0, or null, got {value!r}")
    return distance
