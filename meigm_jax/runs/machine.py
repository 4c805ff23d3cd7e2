"""What the machine offers and what the run takes of it: memory, time spent compiling, versions."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import psutil

from meigm_jax import __version__
from meigm_jax.config import Config, num_members
from meigm_jax.registry import ConfigError
from meigm_jax.runs.devices import Device, devices_of


class Cgroup(NamedTuple):
    """Files of the memory controller, in one version of Linux's control groups."""

    limit: Path
    used: Path
    cached: str  # key in memory.stat of what `used` counts of files, and Linux takes back when memory is wanted

    def free(self) -> int | None:
        """Bytes below the limit; None where there is none."""
        if not self.limit.is_file() or not (limit := self.limit.read_text().strip()).isdigit():
            return None
        stat = self.limit.with_name("memory.stat")
        counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
        return int(limit) - int(self.used.read_text()) + int(counts.get(self.cached, 0))


V2, V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
CGROUPS = (
    Cgroup(V2 / "memory.max", V2 / "memory.current", "inactive_file"),
    Cgroup(V1 / "memory.limit_in_bytes", V1 / "memory.usage_in_bytes", "total_inactive_file"),
)


def versions(config: Config) -> dict[str, Any]:
    """What a run was made with: package versions, the kind of device and the number of them."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxmarl")}
    devices = devices_of(config)
    return {
        "meigm_jax": __version__,
        "python": platform.python_version(),
        **packages,
        "device": devices[0].device_kind,
        "devices": len(devices),
    }


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def free_memory(device: Device | None = None) -> int:
    """Bytes that new arrays may take on a device (the first); on the CPU the cgroup and the free memory are the limit.

    CPU devices share the memory: what one takes the others lose.
    """
    stats = (device or jax.devices()[0]).memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    free = [cgroup.free() for cgroup in CGROUPS]
    return min([psutil.virtual_memory().available, *(each for each in free if each is not None)])


def check_replay_fits(config: Config, replay_bytes: int) -> str:
    """One line on where the replay goes. Raises ConfigError when it can't fit, before anything is allocated."""
    devices = devices_of(config)
    free, kind, count = min(map(free_memory, devices)), devices[0].device_kind, len(devices)
    replay_bytes *= max(1, count // num_members(config))  # each of the devices that split a member has all of it
    needed = f"{human_bytes(replay_bytes)} ({num_members(config)} x {config.replay.capacity} sequences)"
    if count == 1:
        needed += f" on {kind}"
    elif devices[0].platform == "cpu":  # devices of one host, with one memory
        needed += f" on {count} x {kind}"
    else:
        replay_bytes //= count
        needed += f", {human_bytes(replay_bytes)} on each of {count} x {kind}"
    if replay_bytes > free:
        raise ConfigError(
            f"replay.capacity: the replay needs {needed}, where {human_bytes(free)} is free; "
            f"lower replay.capacity{', the sweep' if config.sweep else ''} or seeds"
        )
    return f"replay: {needed}, {human_bytes(free)} free"


def peak_memory() -> int:
    """Peak bytes of this process: in use on the devices, or resident where the device is the CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return sum(each["peak_bytes_in_use"] for each in stats if each)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class CompileClock:
    """Context that sums up the seconds JAX spends on tracing and compiling, as JAX itself reports them.

    What a long compilation took of memory, half a gigabyte, goes back to the system.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._listener: Callable[..., None] = self._add

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._listener)
        return self

    def __exit__(self, *exc: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listener)

    def _add(self, event: str, seconds: float, **kwargs: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += seconds
        if event == "/jax/core/compile/backend_compile_duration" and seconds > 1:
            return_free_memory()


def return_free_memory() -> None:
    """Have the C library give back what it holds of freed memory, where it is glibc: others do so by themselves."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
