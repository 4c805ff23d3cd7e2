"""The loop, its checkpoints and its logs, with the fake trainer."""

import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meigm_jax.engine.train_step import Streams
from meigm_jax.registry import ConfigError
from meigm_jax.runs import checkpoint, logger, loop, machine
from meigm_jax.runs.files import NotSaved
from meigm_jax.runs.logger import MetricsFile
from meigm_jax.runs.progress import ChunkSize, Means, Schedule
from tests.runs import fake

CONFIG = fake.small_config(Path("unused"))
TRAINER = fake.make_trainer(CONFIG, 3)


class Crash(Exception):
    pass


class Recorder:
    """The fake trainer; crashes in chunk `crash_in` and keeps the last state. `change` edits what run returns."""

    def __init__(self, crash_in=None, change=None):
        self.crash_in, self.change, self.chunks, self.state = crash_in, change, 0, None

    def __call__(self, config, max_iterations):
        assert max_iterations == 3
        return TRAINER._replace(run=self.run)

    def run(self, state, first, count):
        self.chunks += 1
        if self.chunks == self.crash_in:
            raise Crash
        state, metrics = TRAINER.run(state, first, count)
        if self.change is not None:
            state, metrics = self.change(state, metrics, first, count)
        self.state = state
        return state, metrics


def train(config, resume=None, crash_in=None, change=None):
    recorder = Recorder(crash_in, change)
    summary = loop.run(config, resume, recorder)
    return recorder.state, summary


def crash(config, crash_in):
    with pytest.raises(Crash):
        train(config, crash_in=crash_in)


def rows_of(run_dir):
    def forbidden(token):
        raise AssertionError(f"{token} in JSON")

    rows = [json.loads(line, parse_constant=forbidden) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_time"} for row in rows]


def assert_same(state, run_dir, whole):
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(whole.state), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert rows_of(run_dir) == rows_of(whole.run_dir)


def chunks_of(monkeypatch, size):
    monkeypatch.setattr(ChunkSize, "next", lambda self, limit: min(limit, size))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted, one iteration per chunk."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkSize, "next", lambda self, limit: 1)
        state, summary = train(fake.small_config(run_dir))
    return types.SimpleNamespace(run_dir=run_dir, state=state, summary=summary)


def test_rows_hold_the_fixed_keys(whole):
    rows = rows_of(whole.run_dir)
    first = rows[0]
    assert list(first)[:6] == ["kind", "env_steps", "grad_steps", "seed", "member", "hyper"]
    assert first["loss_td"] is not None  # a mean over the iterations that have it
    assert first["opt_error"] is None
    train_steps = [row["env_steps"] for row in rows if row["kind"] == "train" and row["seed"] == 0]
    assert train_steps == [24, 48, 72, 96, 120, 144, 160]
    evaluated = [(row["env_steps"], row["policy"], row["episodes"]) for row in rows if row["kind"] == "eval"]
    points = [(56, 4), (104, 4), (152, 4), (160, 8)]  # env steps come in eights
    assert evaluated == [(s, p, n) for s, n in points for p in ("greedy", "sampled") for _ in range(2)]
    assert rows[-1]["grad_steps"] == (20 - 2) * 3


def test_summary_tells_final_and_best(whole):
    finals = {row["seed"]: row for row in rows_of(whole.run_dir) if row["kind"] == "eval" and row["policy"] == "greedy"}
    summary = json.loads((whole.run_dir / "summary.json").read_text())
    assert summary == whole.summary
    assert summary["env_steps"] == 160 and summary["env_steps_per_second"] > 0 and summary["peak_memory_bytes"] > 1e6
    for each in summary["seeds"]:
        assert each["non_finite"] is None
        assert each["final"]["greedy"]["win_rate"] == finals[each["seed"]]["win_rate"]
        assert each["best"]["win_rate"] >= each["final"]["greedy"]["win_rate"]


@pytest.mark.parametrize("size", [2, 3])
def test_chunk_sizes_change_nothing(tmp_path, whole, monkeypatch, size):
    chunks_of(monkeypatch, size)
    state, _ = train(fake.small_config(tmp_path / "run"))
    assert_same(state, tmp_path / "run", whole)


@pytest.mark.parametrize(("crash_in", "before", "after"), [(1, 1, 2), (2, 1, 3), (3, 3, 1), (6, 2, 3), (14, 1, 1)])
def test_a_resumed_run_is_bit_identical(tmp_path, whole, monkeypatch, crash_in, before, after):
    config = fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, before)
    crash(config, crash_in)
    chunks_of(monkeypatch, after)
    with pytest.raises(Crash):
        train(config, tmp_path / "run", crash_in=3)
    state, summary = train(config, tmp_path / "run")
    assert_same(state, tmp_path / "run", whole)
    assert summary["seeds"] == whole.summary["seeds"]


@pytest.mark.parametrize("chunks", [3, 7, 20])  # a log point, a log point and an evaluation, the end
def test_what_was_due_when_a_signal_came_is_reported_on_resuming(tmp_path, whole, monkeypatch, chunks):
    config = fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, 1)

    def stop(state, metrics, first, count):
        if first == chunks - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, metrics

    with pytest.raises(SystemExit) as leaving:
        train(config, change=stop)
    assert leaving.value.code == 143
    assert all(row["env_steps"] < 8 * chunks for row in rows_of(tmp_path / "run"))
    _, summary = train(config, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(whole.run_dir)
    assert summary["seeds"] == whole.summary["seeds"]


def test_a_signal_during_an_evaluation_waits_for_no_further_chunk(tmp_path, whole, monkeypatch):
    config = fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, 1)
    recorder, evaluated = Recorder(), []

    def evaluate(learner, key, env_steps, policy, *, episodes):
        if not evaluated:
            os.kill(os.getpid(), signal.SIGTERM)
        evaluated.append((int(env_steps), policy))
        return TRAINER.evaluate(learner, key, env_steps, policy, episodes=episodes)

    with pytest.raises(SystemExit) as leaving:
        loop.run(config, None, lambda *sizes: recorder(*sizes)._replace(evaluate=evaluate))
    assert leaving.value.code == 143 and recorder.chunks == 7
    assert evaluated == [(56, "greedy"), (56, "sampled")]
    train(config, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(whole.run_dir)


def test_training_outlives_a_console_that_nobody_reads(tmp_path):
    command = f"{sys.executable} -m tests.runs.fake {tmp_path / 'run'} 0.05 2>&1 | head -n 1"
    subprocess.run(["bash", "-c", command], cwd=Path(__file__).parents[2], check=True, capture_output=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/summary.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert json.loads((tmp_path / "run/summary.json").read_text())["env_steps"] == 160


def test_a_run_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="run_dir: cannot make "):
        train(fake.small_config(tmp_path / "file/run"))


def newest(run_dir, pattern):
    found = sorted((run_dir / "checkpoints").glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    return found[-1]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "no manifest": lambda run_dir: (run_dir / "checkpoints/10/manifest.json").unlink(),
    "half a manifest": lambda run_dir: os.truncate(run_dir / "checkpoints/10/manifest.json", 100),
    "no learner": lambda run_dir: [p.unlink() for p in (run_dir / "checkpoints/10/state").rglob("*") if p.is_file()],
    "changed learner": lambda run_dir: [  # every byte: a single one may be of no use to Orbax
        path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
        for path in (run_dir / "checkpoints/10/state").rglob("d/*")
    ],
    "no segment": lambda run_dir: newest(run_dir, "replay/*").unlink(),
    "cut segment": lambda run_dir: os.truncate(newest(run_dir, "replay/*"), 60),
    "changed segment": lambda run_dir: flip_a_byte(newest(run_dir, "replay/*")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped(tmp_path, whole, monkeypatch, capsys, damage):
    run_dir, config = tmp_path / "run", fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, 1)
    crash(config, 11)
    DAMAGE[damage](run_dir)
    state, _ = train(config, run_dir)
    out = capsys.readouterr().out
    assert out.count("warning") == 1 and "checkpoint 10 is not intact" in out and "resumed at 72 env steps" in out
    assert_same(state, run_dir, whole)
    assert sorted(p.name for p in (run_dir / "checkpoints").glob("[0-9]*")) == ["19", "20"]


def test_without_any_intact_checkpoint_nothing_is_lost(tmp_path, monkeypatch):
    run_dir, config = tmp_path / "run", fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, 1)
    crash(config, 11)
    before = rows_of(run_dir)
    for segment in (run_dir / "checkpoints/replay").glob("*"):
        segment.unlink()
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is intact"):
        train(config, run_dir)
    assert rows_of(run_dir) == before


def test_a_replay_stored_by_another_version_is_one_clear_error(tmp_path, monkeypatch):
    config = fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, 1)
    crash(config, 11)
    before = rows_of(tmp_path / "run")

    def other_version(*_):
        def init(*args):
            state = TRAINER.init(*args)
            return state._replace(replay={"seen": state.replay.obs, "flags": state.replay.flag})

        return TRAINER._replace(init=init)

    with pytest.raises(ConfigError, match=r"resume: the replay in .* was stored by another version"):
        loop.run(config, tmp_path / "run", other_version)
    assert rows_of(tmp_path / "run") == before


@pytest.mark.parametrize("keep", [1, 3])
def test_only_what_is_needed_is_kept(tmp_path, monkeypatch, keep):
    chunks_of(monkeypatch, 1)
    train(fake.small_config(tmp_path / "run", f"checkpoint.keep={keep}"))
    folder = tmp_path / "run/checkpoints"
    assert sorted(int(p.name) for p in folder.glob("[0-9]*")) == list(range(21 - keep, 21))
    segments = sorted(p.name for p in (folder / "replay").glob("*"))
    oldest = (21 - keep) * 2 - 8  # first sequence that the oldest kept checkpoint needs
    assert segments == [f"{n:012d}-{n + 2:012d}.safetensors" for n in range(oldest, 40, 2)]


def test_a_save_writes_only_what_is_new_and_in_pieces(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 3 * 14)  # three sequences of two members
    chunks_of(monkeypatch, 3)
    crash(fake.small_config(tmp_path / "run"), 4)
    names = sorted(p.name for p in (tmp_path / "run/checkpoints/replay").glob("*"))
    bounds = [tuple(int(x) for x in name.split(".")[0].split("-")) for name in names]
    assert bounds == [
        (0, 3),
        (3, 4),
        (4, 6),
        (6, 8),
        (8, 11),
        (11, 12),
    ]  # saves at 2, 3 and 6 iterations, ring end at 8
    state, _ = train(fake.small_config(tmp_path / "run"), tmp_path / "run")
    assert_same(state, tmp_path / "run", whole)


def test_the_best_learner_is_kept(whole):
    means = {}
    for row in rows_of(whole.run_dir):
        if row["kind"] == "eval" and row["policy"] == "greedy":
            means.setdefault(row["env_steps"], []).append(row["win_rate"])
    best = max(means, key=lambda steps: sum(means[steps]))
    folder = whole.run_dir / "checkpoints/best"
    manifest = checkpoint.read_manifest(folder)
    assert manifest["env_steps"] == best and manifest["win_rate"] == sum(means[best]) / 2
    like = jax.eval_shape(lambda: whole.state)
    learner, key = checkpoint.read_tree(folder, like)
    found = TRAINER.evaluate(
        learner, jax.vmap(lambda k: jax.random.fold_in(k, Streams.EVALUATION))(key), best, "greedy", episodes=4
    )
    assert float(found["win"].mean()) == manifest["win_rate"]
    assert len(list((whole.run_dir / "checkpoints").glob("best-*"))) == 1


def test_a_finished_run_has_nothing_to_do_and_can_be_extended(tmp_path, whole, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    short = fake.small_config(run_dir, "total_env_steps=72", "evaluation.final_episodes=4")
    chunks_of(monkeypatch, 3)
    train(short)
    before = (run_dir / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert train(short, run_dir)[0] is None
    assert "nothing to do" in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    state, summary = train(fake.small_config(run_dir), run_dir)
    extra = [row for row in rows_of(run_dir) if row["kind"] == "eval" and row["env_steps"] == 72]
    assert len(extra) == 4 and summary["env_steps"] == 160
    assert [row for row in rows_of(run_dir) if row not in extra] == rows_of(whole.run_dir)
    np.testing.assert_array_equal(np.asarray(state.learner.params["w"]), np.asarray(whole.state.learner.params["w"]))


def test_a_run_stopped_in_its_last_chunk_and_resumed_can_be_extended_as_any_other(tmp_path, whole, monkeypatch):
    def rows_when_extended(run_dir, change=None):
        short = fake.small_config(run_dir, "total_env_steps=72")
        try:
            train(short, change=change)
        except SystemExit:
            train(short, run_dir)
        train(fake.small_config(run_dir), run_dir)
        return rows_of(run_dir)

    def stop(state, metrics, first, count):
        if first + count == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, metrics

    chunks_of(monkeypatch, 1)
    undisturbed = rows_when_extended(tmp_path / "undisturbed")
    assert any(row["kind"] == "eval" and row["env_steps"] == 72 for row in undisturbed)
    assert rows_when_extended(tmp_path / "stopped", stop) == undisturbed


def test_a_finished_run_without_checkpoints_keeps_its_results(tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    chunks_of(monkeypatch, 3)
    train(fake.small_config(run_dir, "total_env_steps=72"))
    shutil.rmtree(run_dir / "checkpoints")
    before = {name: (run_dir / name).read_bytes() for name in ("metrics.jsonl", "config.yaml", "summary.json")}
    with pytest.raises(ConfigError, match="was finished, but has no checkpoint left"):
        train(fake.small_config(run_dir), run_dir)
    assert {name: (run_dir / name).read_bytes() for name in before} == before


def test_the_best_learner_outlives_a_kill_and_a_full_disk(tmp_path, monkeypatch):
    """Killed after it was saved, the run comes to the same iteration again, and then can't save it."""
    run_dir, write = tmp_path / "run", checkpoint._write_tree
    config = fake.small_config(run_dir, "checkpoint.interval_seconds=1000")
    chunks_of(monkeypatch, 1)
    crash(config, 10)
    best = run_dir / "checkpoints/best"
    manifest = checkpoint.read_manifest(best)
    assert manifest["iteration"] == 7

    def full(path, *args):
        if "best" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args)

    monkeypatch.setattr(checkpoint, "_write_tree", full)
    with pytest.raises(Crash):
        train(config, run_dir, crash_in=10)
    assert checkpoint.read_manifest(best) == manifest
    monkeypatch.setattr(checkpoint, "_write_tree", write)
    with pytest.raises(Crash):
        train(config, run_dir, crash_in=10)
    assert checkpoint.read_manifest(best) == manifest and len(list(best.parent.glob("best-*"))) == 1


def test_a_best_learner_that_was_not_saved_does_not_count(tmp_path, monkeypatch):
    values, write = {56: 0.2, 104: 0.9, 152: 0.5, 160: 0.1}, checkpoint._write_tree

    def evaluate(learner, key, env_steps, policy, *, episodes):
        found = TRAINER.evaluate(learner, key, env_steps, policy, episodes=episodes)
        return found | {"win": jnp.full_like(found["win"], values[env_steps])}

    def full(path, *args):
        if "best-13" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args)

    monkeypatch.setattr(checkpoint, "_write_tree", full)
    loop.run(fake.small_config(tmp_path / "run"), None, lambda *sizes: TRAINER._replace(evaluate=evaluate))
    manifest = checkpoint.read_manifest(tmp_path / "run/checkpoints/best")
    assert (manifest["env_steps"], manifest["win_rate"]) == (152, 0.5)


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints_take_no_more_than_was_announced(tmp_path, monkeypatch, keep):
    config = fake.small_config(tmp_path / "run", f"checkpoint.keep={keep}")
    state = TRAINER.init(loop.member_seeds(config), loop.member_hypers(config))
    folder, most, write = tmp_path / "checkpoints", [0], checkpoint.write_text
    checkpoints = checkpoint.Checkpoints(folder, config)

    def watched(path, text):
        kept = sum(int(file.name[13:25]) - int(file.name[:12]) for file in (folder / "replay").glob("*"))
        most[0] = max(most[0], kept)
        write(path, text)

    monkeypatch.setattr(checkpoint, "write_text", watched)
    for iteration in range(4, 24, 4):  # as far apart as the replay is long
        checkpoints.save(state, iteration, {})
    learner, replay = (checkpoint.tree_bytes(tree) for tree in (state.learner, state.replay))
    announced = checkpoint.disk_bytes(config, replay, state.learner)
    assert announced == most[0] * replay // config.replay.capacity + (keep + 2) * learner


def test_a_summary_that_a_kill_prevented_is_written_on_resume(tmp_path, whole, monkeypatch):
    chunks_of(monkeypatch, 3)
    config = fake.small_config(tmp_path / "run")
    train(config)
    (tmp_path / "run/summary.json").unlink()
    state, summary = train(config, tmp_path / "run")
    assert state is None and summary["seeds"] == whole.summary["seeds"]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("write_bytes", OSError(errno.ENOSPC, "No space left on device")),
        ("_write_tree", ValueError("TensorStore: No space left on device")),
        ("_write_tree", ValueError("TensorStore: Disk quota exceeded")),
    ],
)
def test_a_full_disk_costs_a_checkpoint_and_nothing_else(tmp_path, whole, monkeypatch, capsys, where, error):
    run_dir, config = tmp_path / "run", fake.small_config(tmp_path / "run")
    chunks_of(monkeypatch, 1)
    crash(config, 8)
    count, write = itertools.count(), getattr(checkpoint, where)

    def full(*args):
        if "checkpoints" in str(args[0]) and next(count) < 5:
            raise error
        return write(*args)

    monkeypatch.setattr(checkpoint, where, full)
    with pytest.raises(Crash):
        train(config, run_dir, crash_in=4)
    assert "no checkpoint at 64 env steps, training goes on" in capsys.readouterr().err
    assert sorted(p.name for p in (run_dir / "checkpoints").glob("[0-9]*")) == ["6", "7"]
    state, _ = train(config, run_dir)
    assert_same(state, run_dir, whole)


@pytest.mark.parametrize("lost", [("checkpoint",), ("summary",), ("checkpoint", "summary")])
def test_a_run_whose_end_is_not_on_the_disk_says_so_and_is_ended_by_resuming(
    tmp_path, whole, monkeypatch, capsys, lost
):
    run_dir, config = tmp_path / "run", fake.small_config(tmp_path / "run")
    write_tree, write_text = checkpoint._write_tree, loop.write_text

    def refuse(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    if "checkpoint" in lost:
        monkeypatch.setattr(checkpoint, "_write_tree", refuse)
    if "summary" in lost:
        monkeypatch.setattr(loop, "write_text", refuse)
    with pytest.raises(NotSaved, match=rf"{run_dir}: its end could not be written; resume it .*No space"):
        train(config)
    assert "mean" in capsys.readouterr().out  # the results are shown all the same
    monkeypatch.setattr(checkpoint, "_write_tree", write_tree)
    monkeypatch.setattr(loop, "write_text", write_text)
    state, summary = train(config, run_dir)
    assert summary["seeds"] == whole.summary["seeds"] and (run_dir / "summary.json").exists()
    if "checkpoint" in lost:
        assert_same(state, run_dir, whole)
    else:
        assert state is None  # nothing was left to train


def test_wins_that_tie_are_told_apart_by_their_returns(tmp_path, monkeypatch):
    """All win rates 0: the best of a seed is the evaluation with the largest return, and so is the one that is kept."""
    config = fake.small_config(tmp_path / "run")
    returns = {}

    def evaluate(learner, key, env_steps, policy, *, episodes):
        value = returns.setdefault(env_steps, [-3.0, 2.0, 1.0, 0.0][len(returns)] if len(returns) < 4 else 0.0)
        ones = np.ones((config.seeds, episodes))
        return {"return": value * ones, "win": 0 * ones, "episode_length": ones}

    summary = loop.run(config, None, lambda *args: fake.make_trainer(*args)._replace(evaluate=evaluate))
    best = max(returns, key=lambda steps: returns[steps])
    assert len(returns) > 3 and best == list(returns)[1]
    for member in summary["seeds"]:
        assert (member["best"]["env_steps"], member["best"]["return"]) == (best, 2.0)
    assert checkpoint.read_manifest(tmp_path / "run/checkpoints/best")["env_steps"] == best


def test_a_checkpoint_that_somebody_deleted_does_not_end_the_run(tmp_path, whole, monkeypatch):
    run_dir = tmp_path / "run"
    chunks_of(monkeypatch, 1)

    def delete(state, metrics, first, count):
        for folder in (run_dir / "checkpoints").glob("[0-9]*"):
            shutil.rmtree(folder)
        return state, metrics

    state, _ = train(fake.small_config(run_dir), change=delete)
    assert_same(state, run_dir, whole)


def test_rows_that_find_the_disk_full_wait_whole(tmp_path, monkeypatch):
    write = os.write
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.write([{"a": 1}])
        monkeypatch.setattr(logger.os, "write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(OSError, match="No space left"):
            metrics.write([{"b": 2}])
        assert (tmp_path / "metrics.jsonl").read_text() == '{"a": 1}\n'
        monkeypatch.setattr(logger.os, "write", write)
        metrics.write([{"c": float("nan")}])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"a": 1}\n{"b": 2}\n{"c": null}\n'


def test_what_became_non_finite_is_told_and_never_a_bare_token(tmp_path, monkeypatch):
    def break_seeds(state, metrics, first, count):
        rows = np.arange(first, first + 3)[:, None] == np.array([7, 9])
        loss = jnp.where(rows[:, :1] & np.array([True, False]), jnp.inf, metrics["loss_td"])
        loss = jnp.where(rows[:, 1:] & np.array([False, True]), jnp.nan, loss)
        return state, {**metrics, "loss_td": loss}

    chunks_of(monkeypatch, 3)
    config = fake.small_config(tmp_path / "run", "seeds=2")
    crash_after = Recorder(crash_in=6, change=break_seeds)  # the infinite sum travels through a checkpoint
    with pytest.raises(Crash):
        loop.run(config, None, crash_after)
    _, summary = train(config, tmp_path / "run", change=break_seeds)
    assert [each["non_finite"] for each in summary["seeds"]] == [64, 80]
    row = next(r for r in rows_of(tmp_path / "run") if r["kind"] == "train" and r["env_steps"] == 72)
    assert row["seed"] == 0 and row["loss_td"] is None


def test_broken_parameters_are_noticed_at_the_log_point(tmp_path, monkeypatch):
    def break_parameters(state, metrics, first, count):
        w = state.learner.params["w"]
        broken = jnp.where((first >= 9) & (jnp.arange(2) == 1)[:, None], jnp.nan, w)
        learner = state.learner._replace(params={"w": broken})
        return state._replace(learner=learner), {k: v for k, v in metrics.items() if k == "return"}

    chunks_of(monkeypatch, 3)
    _, summary = train(fake.small_config(tmp_path / "run"), change=break_parameters)
    assert [each["non_finite"] for each in summary["seeds"]] == [None, 96]
    rows_of(tmp_path / "run")


def test_a_replay_that_cannot_fit_is_an_error_before_anything_is_written(tmp_path):
    config = fake.small_config(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"replay\.capacity: .*4\.1e\+03 TiB"):
        loop.run(config, None, lambda *_: TRAINER._replace(replay_bytes=2**52))
    assert not (tmp_path / "run").exists()


def test_the_cgroup_limits_the_memory(tmp_path, monkeypatch):
    """What it holds of files that were read or written is free, too: Linux takes that back when memory is wanted."""
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text("4096\n")
    used.write_text("1024\n")
    (tmp_path / "memory.stat").write_text("anon 512\ninactive_file 300\nactive_file 212\n")
    cgroups = machine.Cgroup(limit, used, "inactive_file"), machine.Cgroup(tmp_path / "none", used, "inactive_file")
    monkeypatch.setattr(machine, "CGROUPS", cgroups)
    assert machine.free_memory() == 3372
    limit.write_text("max\n")
    assert machine.free_memory() > 2**20


def test_an_existing_run_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"run_dir: .*run exists"):
        train(fake.small_config(tmp_path / "run"))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_an_empty_folder_becomes_the_run_directory_also_behind_a_link(tmp_path):
    """As of a mounted disk: it can't be made anew, and nothing beside it can be written."""
    (tmp_path / "disk").mkdir()
    inode = (tmp_path / "disk").stat().st_ino
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    train(fake.small_config(tmp_path / "run"))
    assert (tmp_path / "disk").stat().st_ino == inode
    assert (tmp_path / "disk/summary.json").exists()


@pytest.mark.parametrize("text", ["{}", "null", "[]", '{"env_steps": null}', "{"])
def test_a_damaged_summary_is_made_again(tmp_path, text):
    config = fake.small_config(tmp_path / "run")
    _, summary = train(config)
    (tmp_path / "run/summary.json").write_text(text)
    assert train(config, tmp_path / "run")[1]["seeds"] == summary["seeds"]
    assert json.loads((tmp_path / "run/summary.json").read_text())["seeds"] == summary["seeds"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_run_whose_evaluations_are_not_finite_goes_on(tmp_path, value):
    def evaluate(learner, key, env_steps, policy, *, episodes):
        found = TRAINER.evaluate(learner, key, env_steps, policy, episodes=episodes)
        return found | {"win": jnp.full_like(found["win"], value)}

    def make(*sizes):
        return TRAINER._replace(evaluate=evaluate)

    config = fake.small_config(tmp_path / "run")
    loop.run(config, None, make)
    (tmp_path / "run/summary.json").unlink()
    for steps in (config.total_env_steps, config.total_env_steps + 80):
        summary = loop.run(replace(config, total_env_steps=steps), tmp_path / "run", make)
        assert [member["final"]["greedy"]["win_rate"] for member in summary["seeds"]] == [None, None]
    assert rows_of(tmp_path / "run")


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="not a run directory"):
        train(fake.small_config(tmp_path), tmp_path)


def test_one_process_per_run(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl"), pytest.raises(ConfigError, match="another process"):
        MetricsFile(tmp_path / "metrics.jsonl")


def test_progress_is_readable_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(logger, "PLAIN_LINE_SECONDS", 0.0)
    config = replace(CONFIG, total_env_steps=100_000, log=replace(CONFIG.log, progress=True))
    console = logger.Console(config, 0)
    console.progress(25_000, 0.001, 2, {"return": 1.5, "win_rate": float("nan")})
    console.close()
    expected = " 25%  25.0k/100k env steps, 2.00k steps/s, 01:15 left, return 1.5\n"
    assert capsys.readouterr().err == expected


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 300))
def test_no_event_is_passed_over(log, evaluation, total):
    config = replace(
        CONFIG,
        total_env_steps=total,
        log=replace(CONFIG.log, interval=log),
        evaluation=replace(CONFIG.evaluation, interval=evaluation),
    )
    schedule = Schedule(config)
    stops, iteration = set(), 0
    while iteration < schedule.last:
        iteration += schedule.iterations_to_event(iteration)
        stops.add(iteration)
    due = {i for i in range(1, schedule.last + 1) if schedule.log_due(i) or schedule.evaluation_due(i)}
    assert stops == due
    evaluated = [i for i in due if schedule.evaluation_due(i)]
    for done in (0, schedule.last // 2, schedule.last):
        assert schedule.evaluations(done) == sum(i > done for i in evaluated)
    assert {i for i in due if schedule.log_due(i)} >= {-(-k // 8) for k in range(log, schedule.last * 8 + 1, log)}


@given(st.lists(st.floats(width=32), min_size=1, max_size=12), st.integers(1, 5))
def test_means_do_not_depend_on_the_blocks(values, size):
    column = np.array(values, np.float32)[:, None]
    one, blocks = Means(), Means()
    for x in column:
        one.add({"x": x[None]})
    for start in range(0, len(column), size):
        blocks.add({"x": column[start : start + size]})
        blocks = Means(**json.loads(json.dumps(blocks.plain())))
    np.testing.assert_array_equal(one.of(0)["x"], blocks.of(0)["x"])
