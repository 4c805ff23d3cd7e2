"""Members shared evenly among devices: each device runs the program of its own members, and none waits for another.

Where there are more devices than members, when asked for, each member is split among as many (`ops/shards.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from meigm_jax.config import Config, members_in_words, num_members
from meigm_jax.ops import shards
from meigm_jax.registry import ConfigError

AXIS = "members"
PER_CORE, MOST = 4, 16  # devices made of the CPU: three members need three to keep two cores busy
_made_here = False  # whether the devices were made of the CPU by `divide_cpu`; all others are there to be used
Device = Any  # a jax.Device: a name that type checkers do not take for a type


def divide_cpu(configs: Sequence[Config]) -> None:
    """Let JAX make as many devices of the CPU as these runs use, unless it has started or somebody has said how many.

    XLA runs the time loops of one program on one core; members that devices of their own train keep the others busy.
    No more than are used: each device has threads of its own, which get into each other's way.
    """
    global _made_here
    asked = jax.config.jax_num_cpu_devices >= 0 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked:
        most = min(PER_CORE * cores(), MOST)
        wanted = [config.devices or shares(num_members(config), most, cores()) for config in configs]
        with contextlib.suppress(RuntimeError):  # it has started
            jax.config.update("jax_num_cpu_devices", min(max(wanted), most))
            _made_here = True


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(members: int, visible: int, wanted: int) -> int:
    """How many of the visible devices train so many members: what divides them, at least `wanted` if possible."""
    fitting = [count for count in range(1, visible + 1) if members % count == 0]
    return next((count for count in fitting if count >= wanted), fitting[-1])


def devices_of(config: Config) -> list[Device]:
    """The devices that share the members, at least one. Raises ConfigError unless they do so evenly."""
    visible = jax.devices()
    count = config.devices or shares(num_members(config), len(visible), cores() if _made_here else len(visible))
    if count > len(visible):
        raise ConfigError(f"devices: {count} asked for, {len(visible)} visible; use devices={len(visible)} or fewer")
    total = num_members(config)
    if config.devices is not None and count > total and count % total == 0:
        _check_split(config, count // total)
    elif total % count:
        fitting = max(n for n in range(1, count) if total % n == 0)
        raise ConfigError(
            f"seeds: {members_in_words(config)} can't be shared evenly by {count} devices; "
            f"use a multiple of {count}, or devices={fitting}"
        )
    return visible[:count]


def idle(config: Config) -> str | None:
    """A line on the devices that have no work because they don't divide the members; None where all have."""
    used, visible = len(devices_of(config)), len(jax.devices())
    if config.devices is not None or _made_here or used == visible:
        return None
    return f"{used} of {visible} devices are used: more can't share {members_in_words(config)} evenly"


def _check_split(config: Config, number: int) -> None:
    for key in ("num_envs", "batch_size"):
        if (value := getattr(config.train, key)) % number:
            raise ConfigError(
                f"train.{key}: {value} can't be split evenly by {number} devices per member; "
                f"use a multiple of {number}, or devices={num_members(config)}"
            )


def mesh_of(config: Config) -> Mesh:
    """The devices with an axis that shares the members and one that splits each. Raises ConfigError as `devices_of`."""
    devices = np.array(devices_of(config))
    return Mesh(devices.reshape(min(devices.size, num_members(config)), -1), (AXIS, shards.AXIS))


def shared(
    function: Callable[..., Any], mesh: Mesh, in_axes: Sequence[int | None], out_axes: Any
) -> Callable[..., Any]:
    """`function` of arrays with a member axis, run by every device on its own members.

    Axes are those of the members, as for vmap; None: every device gets all of it. Devices that split a member all have
    all of it: `function` sees to the work. One device gets `function` itself.
    """
    if mesh.size == 1:
        return function
    inputs, outputs = tuple(map(_spec, in_axes)), jax.tree.map(_spec, out_axes)
    # Unchecked: what devices that split a member return is the same on all of them.
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)
