"""Killed and resumed: the real trainer, sweeping, each time in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "seeds=1 sweep.lr=[1e-4,1e-3] total_env_steps=2400 "
    "train.num_envs=4 train.chunk_length=2 train.updates_per_chunk=2 train.batch_size=4 "
    "train.warmup_sequences=64 train.target_update_interval=4 replay.capacity=256 log.interval=200 "
    "evaluation.interval=800 evaluation.episodes=4 evaluation.final_episodes=4 evaluation.num_envs=4 "
    "checkpoint.interval_seconds=0 algo.agent.name=mlp algo.agent.hidden_dim=16"
).split()  # 300 iterations of 8 env steps; the ring of the replay wraps four times


def rows_of(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_time"} for row in rows]


def final_state(run_dir):
    """The arrays as numpy's: the run's devices are not this process's."""
    folder = (run_dir / "checkpoints/300/state").resolve()
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return jax.tree.leaves(checkpointer.restore(folder, restore_args=as_numpy))


def train(arguments, cache):
    """Start the command; compiled programs are shared between the processes, which saves a minute."""
    settings = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen([sys.executable, "-m", "meigm_jax.train", *arguments], cwd=ROOT, env=os.environ | settings)


def newest_checkpoint(run_dir):
    return max((int(path.parent.name) for path in run_dir.glob("checkpoints/[0-9]*/manifest.json")), default=0)


def kill(process, run_dir, seconds):
    """SIGKILL `seconds` after the process has saved its first checkpoint."""
    before = newest_checkpoint(run_dir)
    while newest_checkpoint(run_dir) == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def assert_times_add_up(run_dir):
    """Also of a run that several processes have trained: nothing is counted twice, and the clock never goes back."""
    summary = json.loads((run_dir / "summary.json").read_text())
    training = len(summary["seeds"]) * summary["env_steps"] / summary["env_steps_per_second"]
    assert training > 0 and summary["compile_seconds"] > 0
    assert training + summary["compile_seconds"] < summary["wall_time"]
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    times = [json.loads(line)["wall_time"] for line in lines]
    assert times == sorted(times) and times[-1] <= summary["wall_time"]


def test_a_run_that_is_killed_twice_ends_as_if_nothing_had_been(tmp_path):
    """At two moments of its life; where in an iteration or a save that is differs from machine to machine."""
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    assert train(["+env=matrix_game", f"run_dir={whole}", *OPTIONS], cache).wait() == 0
    kill(train(["+env=matrix_game", f"run_dir={killed}", *OPTIONS], cache), killed, seconds=0.05)
    kill(train([f"resume={killed}"], cache), killed, seconds=0.15)
    assert train([f"resume={killed}"], cache).wait() == 0
    assert rows_of(killed) == rows_of(whole)
    for run_dir in (whole, killed):
        assert_times_add_up(run_dir)
    for x, y in zip(final_state(killed), final_state(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
