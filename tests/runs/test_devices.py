"""Members shared among devices."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from meigm_jax.registry import ConfigError
from meigm_jax.runs import machine
from meigm_jax.runs.devices import MOST, PER_CORE, cores, shares
from tests.runs.fake import small_config

HERE = Path(__file__).parent


def most() -> int:
    return min(PER_CORE * cores(), MOST)


def test_on_eight_devices():
    """Forced CPU devices have to be asked for before jax starts: a process of their own."""
    settings = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "eight_devices.py")]
    done = subprocess.run(command, cwd=HERE.parents[1], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def accelerator(free: int) -> SimpleNamespace:
    stats = {"bytes_limit": free + 10, "bytes_in_use": 10}
    return SimpleNamespace(platform="gpu", device_kind="H100", memory_stats=lambda: stats)


def test_each_accelerator_has_to_hold_its_own_members(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "devices_of", lambda config: [accelerator(2**20), accelerator(2**19)])
    config = small_config(tmp_path)
    assert machine.check_replay_fits(config, 2**20) == (
        "replay: 1 MiB (2 x 8 sequences), 512 KiB on each of 2 x H100, 512 KiB free"
    )
    with pytest.raises(ConfigError, match="513 KiB on each of 2 x H100, where 512 KiB is free"):
        machine.check_replay_fits(config, 2**20 + 2048)


def test_more_devices_than_there_are_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    from meigm_jax.runs.loop import check

    with pytest.raises(ConfigError, match=r"devices: 99 asked for, \d+ visible; use devices=\d+ or fewer"):
        check(small_config(tmp_path / "run", "seeds=99", "devices=99"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("members", "visible", "cores", "expected"),
    [
        (1, 8, 2, 1),
        (2, 8, 2, 2),
        (3, 8, 2, 3),  # two would leave one of them waiting
        (4, 8, 2, 2),
        (11, 8, 2, 1),  # no other number of devices divides them
        (12, 16, 8, 12),
        (10, 16, 64, 10),  # never more than members
        (3, 4, 1, 1),  # on one core there is nothing to win
    ],
)
def test_members_share_as_few_devices_of_the_cpu_as_keep_its_cores_busy(members, visible, cores, expected):
    assert shares(members, visible, cores) == expected


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        (["seeds=1"], {}, 1),
        (["seeds=12 devices=2"], {}, 2),
        (["seeds=1", "seeds=16"], {}, shares(16, most(), cores())),  # enough for the largest of several runs
        (["seeds=99 devices=99"], {}, most()),
        (["seeds=2"], {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        (["seeds=2"], {"JAX_NUM_CPU_DEVICES": "5"}, 5),
    ],
)
def test_the_cpu_is_divided_as_runs_need_it_unless_somebody_has_said_otherwise(arguments, settings, expected):
    program = (
        "import sys, jax; from pathlib import Path; from meigm_jax.runs.devices import divide_cpu\n"
        "from tests.runs.fake import small_config\n"
        "divide_cpu([small_config(Path('unused'), *each.split()) for each in sys.argv[1:]])\n"
        "number = len(jax.devices()); divide_cpu([]); print(number, len(jax.devices()))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment | settings, cwd=HERE.parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(expected)] * 2


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (8, "4"),
        (6, "3 3 of 4 devices are used: more can't share 6 seeds evenly"),
        (3, "3 3 of 4 devices are used: more"),
    ],
)
def test_devices_that_somebody_asked_for_are_all_used(seeds, expected):
    program = (
        "import sys; from pathlib import Path; from meigm_jax.runs import devices\n"
        "from tests.runs.fake import small_config\n"
        "config = small_config(Path('unused'), sys.argv[1]); devices.divide_cpu([config])\n"
        "print(len(devices.devices_of(config)), devices.idle(config) or '')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", program, f"seeds={seeds}"],
        env=environment | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"},
        cwd=HERE.parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(expected)


def test_memory_is_given_back_after_a_long_compilation_only(monkeypatch):
    compiled, calls = "/jax/core/compile/backend_compile_duration", []
    monkeypatch.setattr(machine, "return_free_memory", lambda: calls.append(1))
    with machine.CompileClock() as clock:
        for event, seconds in ((compiled, 0.5), ("/jax/core/compile/jaxpr_trace_duration", 3.0), (compiled, 2.0)):
            assert not calls
            jax.monitoring.record_event_duration_secs(event, seconds)
    assert len(calls) == 1 and clock.seconds == 5.5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back by themselves")
def test_freed_memory_goes_back_to_the_system():
    program = (
        "from meigm_jax.runs.machine import return_free_memory as give_back\n"
        "resident = lambda: 4096 * int(open('/proc/self/statm').read().split()[1])\n"
        "pieces = [bytes(100_000) for _ in range(2000)]; last = bytes(100_000); used = resident()\n"
        "del pieces; give_back(); print(used - resident())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100e6  # of 200 MB; `last` keeps the heap from shrinking by itself
