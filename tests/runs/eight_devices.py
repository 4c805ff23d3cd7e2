"""Tests that need eight devices: test_devices.py runs them in a process that pretends to have so many."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from meigm_jax.config import Config
from meigm_jax.ops import shards
from meigm_jax.runs import devices, loop, machine
from meigm_jax.runs.checkpoint import Checkpoints
from meigm_jax.runs.trainer import Trainer, make_trainer, member_hypers, member_seeds
from meigm_jax.train import configure, main
from tests.algos.test_contract import composed
from tests.algos.variants import random_batch

RUN = (
    "+env=matrix_game +experiment=smoke algo=vdn algo.agent.name=mlp algo.agent.hidden_dim=8 seeds=8 "
    "train.warmup_sequences=16"
).split()
OPTIONS = (
    "evaluation.final_episodes=4 checkpoint.interval_seconds=0 log.progress=false log.interval=64 replay.capacity=32"
).split()
ITERATION = 8  # env steps
LENGTH = 32 * ITERATION  # the ring of the replay wraps four times


class Crash(Exception):
    pass


def config_of(run_dir: Path, total: int, devices: int, *more: str) -> Config:
    values = [f"run_dir={run_dir}", f"total_env_steps={total}", f"devices={devices}", *more]
    return configure(*RUN, *OPTIONS, *values)


@functools.cache
def compiled(devices: int, *more: str) -> Trainer:
    """Compiled once for all runs whose other settings are the same."""
    return make_trainer(config_of(Path("unused"), LENGTH, devices, *more), 8)


def train(run_dir: Path, total: int, devices: int, *more: str, crash_at: int | None = None) -> None:
    """Begin, or go on with, a run; with `crash_at`, an iteration, it ends there without a word."""
    config = config_of(run_dir, total, devices, *more)

    def factory(config: Config, max_iterations: int) -> Trainer:
        trainer = compiled(devices, *more)
        assert max_iterations == 8

        def run(state, first, count):
            if crash_at is not None and first >= crash_at:
                raise Crash
            return trainer.run(state, first, count)

        return trainer._replace(run=run)

    resume = run_dir if run_dir.exists() else None
    if crash_at is None:
        loop.run(config, resume, factory)
    else:
        with pytest.raises(Crash):
            loop.run(config, resume, factory)


def rows_of(run_dir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_time"} for row in rows]


def restored(run_dir: Path, devices: int):
    config, trainer = config_of(run_dir, LENGTH, devices), compiled(devices)
    fresh = trainer.init(member_seeds(config), member_hypers(config))
    found = Checkpoints(run_dir / "checkpoints", config).restore(fresh, pytest.fail)
    assert found is not None
    return found[0]


def arrays(state) -> list[jax.Array]:
    return jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """One run on one device, and the same on 8, 1, 4, 8 and 1 again: twice killed, twice extended."""
    one, many = (tmp_path_factory.mktemp("runs") / name for name in ("one", "many"))
    for total in (LENGTH, 2 * LENGTH, 3 * LENGTH):
        train(one, total, 1, "checkpoint.interval_seconds=1000")
    train(many, LENGTH, 8, crash_at=10)
    train(many, LENGTH, 1, crash_at=20)
    train(many, LENGTH, 4)
    train(many, 2 * LENGTH, 8)
    train(many, 3 * LENGTH, 1)
    return one, many


def test_metrics_do_not_depend_on_the_devices(runs):
    one, many = map(rows_of, runs)
    assert one == many and len(one) > 100
    assert {row["seed"] for row in one} == set(range(8))
    assert len({str(row["loss_td"]) for row in one if row["kind"] == "train"}) > 8


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_a_checkpoint_is_restored_on_any_number_of_devices(runs, devices):
    one, many = (restored(run_dir, devices) for run_dir in runs)
    for x, y in zip(arrays(one), arrays(many), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert np.asarray(one.replay.flags).any(axis=2).all()
    for x in arrays(many):
        assert x.sharding.device_set == set(jax.devices()[:devices])
        assert {shard.data.shape for shard in x.addressable_shards} == {(8 // devices, *x.shape[1:])}


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_training_keeps_each_member_where_it_is_and_makes_no_second_replay(devices):
    config, trainer = config_of(Path("unused"), LENGTH, devices), compiled(devices)
    state = trainer.init(member_seeds(config), member_hypers(config))

    def places(replay):
        return [[shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards] for x in jax.tree.leaves(replay)]

    before, old = places(state.replay), state.replay
    state, metrics = trainer.run(state, 0, 6)
    assert places(state.replay) == before
    assert all(x.is_deleted() for x in jax.tree.leaves(old))
    for x in arrays(state):
        assert {shard.data.shape[0] for shard in x.addressable_shards} == {8 // devices}
    assert metrics["loss_td"].shape == (8, 8)
    assert np.isfinite(metrics["loss_td"][4:6]).all() and np.isnan(metrics["loss_td"][6:]).all()


@pytest.mark.parametrize("name", ["qmix", "me_qmix", "soft_qmix_code", "cw_qmix", "qtran", "iql", "dmix"])
def test_shards_of_a_batch_together_take_the_step_of_the_whole(name):
    _, algorithm, hyper = composed(name)
    batch, key, step = random_batch(), jax.random.key(2), jnp.int32(50)  # its sequences have unequal lengths
    learner = algorithm.init(jax.random.key(0), hyper)
    wanted = jax.jit(algorithm.update)(learner, key, batch, step)
    mesh, sequences = Mesh(jax.devices()[:4], shards.AXIS), PartitionSpec(None, shards.AXIS)
    specs = PartitionSpec(), PartitionSpec(), sequences, PartitionSpec()
    split = jax.shard_map(algorithm.update, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    found = jax.jit(split)(learner, key, batch, step)
    # Adam's first step is the gradient's sign: its moments tell more.
    agree = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(agree, (found[0].optimizer_state, found[1]), (wanted[0].optimizer_state, wanted[1]))
    assert float(optax.tree.norm(wanted[0].optimizer_state)) > 1e-3


SPLIT = ("algo=me_qmix", "seeds=2")


@pytest.fixture(scope="module")
def split_runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two seeds of ME-QMIX on one device, and the same on 4, 1 and 4 devices, killed and resumed."""
    more = *SPLIT, "replay.return_weight=0.1"
    one, many = (tmp_path_factory.mktemp("split") / name for name in ("one", "many"))
    train(one, LENGTH, 1, *more)
    train(many, LENGTH, 4, *more, crash_at=10)
    train(many, LENGTH, 1, *more, crash_at=20)
    train(many, LENGTH, 4, *more)
    return one, many


def test_a_member_split_among_devices_learns_what_a_whole_one_does(split_runs):
    one, many = map(rows_of, split_runs)
    assert len(one) == 10 and {row["kind"] for row in one} == {"train", "eval"}
    for x, y in zip(one, many, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert y[key] == (pytest.approx(x[key], rel=1e-3, abs=1e-5) if isinstance(x[key], float) else x[key])


def test_devices_that_split_a_member_hold_the_same_of_it():
    config, trainer = config_of(Path("unused"), LENGTH, 4, *SPLIT), compiled(4, *SPLIT)
    state = trainer.init(member_seeds(config), member_hypers(config))
    state, metrics = trainer.run(state, 0, 6)
    for x in arrays(state):
        copies = [np.asarray(shard.data) for shard in x.addressable_shards]
        assert len(copies) == 4 and {copy.shape for copy in copies} == {(1, *x.shape[1:])}
        for member in (0, 1):
            assert all((copy == np.asarray(x)[member]).all() for copy in copies[2 * member : 2 * member + 2])
    assert metrics["loss_td"].shape == (8, 2) and np.isfinite(metrics["loss_td"][4:6]).all()
    found = trainer.evaluate(state.learner, state.key, 10, "greedy", episodes=5)
    assert found["return"].shape == (2, 5)


def test_shards_exchange_arrays_of_any_type():
    mesh = Mesh(np.array(jax.devices()), (shards.AXIS,))
    numbers = jnp.arange(32).reshape(16, 2)
    kinds = (jnp.bool_, jnp.uint8, jnp.int8, jnp.int16, jnp.bfloat16, jnp.float32)
    tree = [(numbers % 3).astype(kind) for kind in kinds]
    rows, everything = PartitionSpec(shards.AXIS), PartitionSpec()
    gather = jax.shard_map(shards.gathered, mesh=mesh, in_specs=rows, out_specs=everything, check_vma=False)
    for found, wanted in zip(gather(tree), tree, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_the_run_directory_tells_the_number_of_devices(runs):
    text = (runs[1] / "config.yaml").read_text()
    assert "devices: 1\n" in text  # of the last command
    assert machine.versions(config_of(Path("unused"), LENGTH, 4))["devices"] == 4


def test_devices_of_the_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 2**20)
    config = config_of(Path("unused"), LENGTH, 4)
    line = machine.check_replay_fits(config, 2**19)
    assert line == "replay: 512 KiB (8 x 32 sequences) on 4 x cpu, 1 MiB free"
    with pytest.raises(loop.ConfigError, match="4 x cpu, where 1 MiB is free"):
        machine.check_replay_fits(config, 2**20 + 4)


@pytest.mark.parametrize(("seeds", "used"), [(1, 1), (3, 3), (8, 8), (12, 6), (24, 8)])
def test_as_many_devices_as_divide_the_seeds_are_used_unless_told(seeds, used):
    config = replace(config_of(Path("unused"), LENGTH, 1, f"seeds={seeds}"), devices=None)
    assert devices.devices_of(config) == jax.devices()[:used]
    line = f"{used} of 8 devices are used: more can't share {seeds} seed{'s' * (seeds > 1)} evenly"
    assert devices.idle(config) == (None if used == 8 else line)
    assert devices.idle(replace(config, devices=1)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "seeds=12 devices=8",
            "seeds: 12 seeds can't be shared evenly by 8 devices; use a multiple of 8, or devices=6",
        ),
        ("seeds=8 devices=5", "seeds: 8 seeds can't be shared evenly by 5 devices; use a multiple of 5, or devices=4"),
        (
            "seeds=2 devices=8 train.num_envs=2",
            "train.num_envs: 2 can't be split evenly by 4 devices per member; use a multiple of 4, or devices=2",
        ),
        (
            "seeds=1 devices=8 train.batch_size=12",
            "train.batch_size: 12 can't be split evenly by 8 devices per member; use a multiple of 8, or devices=1",
        ),
        ("seeds=16 devices=16", "devices: 16 asked for, 8 visible; use devices=8 or fewer"),
    ],
)
def test_what_devices_cannot_share_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["+env=matrix_game", *arguments.split()]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_on_resume_too(runs, capsys):
    before = rows_of(runs[1])
    assert main([f"resume={runs[1]}", "devices=3"]) == 2
    assert "seeds: 8 seeds can't be shared evenly by 3 devices" in capsys.readouterr().err
    assert rows_of(runs[1]) == before
