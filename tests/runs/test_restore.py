"""Which checkpoint is read back, and that nothing but an intact one ever is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import yaml

from meigm_jax.algos import me_igm
from meigm_jax.registry import ConfigError
from meigm_jax.runs import restore as module
from meigm_jax.runs.checkpoint import Checkpoints
from meigm_jax.runs.restore import Restored, restore
from tests.runs.saved_run import random_state, save_run

ITERATION = 4  # env steps: two environments, chunks of two rows


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    states = save_run(run_dir, "+env=matrix_game", newest=(5, 7), best=3)
    return run_dir, states


@pytest.fixture
def run_dir(saved, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved[0], tmp_path / "copy", symlinks=True))


def read(run_dir: Path, checkpoint: str = "best", seed: int | None = None) -> tuple[Restored, list[str]]:
    warnings: list[str] = []
    return restore(run_dir, seed, checkpoint, warnings.append), warnings


def damage(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": manifest["checksum"] ^ 1}))


def assert_is(restored: Restored, state, members: list[int]) -> None:
    assert restored.members == members
    wanted = jax.tree.map(lambda x: x[np.array(members)], (state.learner, jax.random.key_data(state.key)))
    found = (restored.learner, jax.random.key_data(restored.key))
    by_name = [  # the optimizer's state comes back without its types, and so in another order
        {jax.tree_util.keystr(path, simple=True): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (found, wanted)
    ]
    assert by_name[0].keys() == by_name[1].keys()
    for name, leaf in by_name[0].items():
        np.testing.assert_array_equal(leaf, by_name[1][name])


@pytest.mark.parametrize(("checkpoint", "name", "iteration"), [("best", "best", 3), ("newest", "7", 7)])
def test_the_learners_of_all_seeds_come_back(saved, checkpoint, name, iteration):
    restored, warnings = read(saved[0], checkpoint)
    assert (restored.checkpoint, restored.env_steps, warnings) == (checkpoint, [iteration * ITERATION] * 2, [])
    assert restored.seeds == [3, 4]
    assert_is(restored, saved[1][name], [0, 1])


def test_one_seed_may_be_chosen(saved):
    restored, _ = read(saved[0], seed=4)
    assert restored.seeds == [4]
    assert_is(restored, saved[1]["best"], [1])


def test_a_member_of_a_sweep_is_chosen_by_its_number_or_with_its_seed(tmp_path):
    sweep = ("+env=matrix_game", "sweep.gamma=[0.9,0.99]")
    states = save_run(tmp_path / "run", *sweep, newest=(2,))
    for seed, member, rows in [(None, 2, [2]), (4, None, [1, 3])]:
        restored = restore(tmp_path / "run", seed, "newest", pytest.fail, member)
        assert_is(restored, states["2"], rows)
        assert restored.seeds == [(3, 4)[row % 2] for row in rows]
        assert restored.hypers == [{"gamma": (0.9, 0.99)[row // 2]} for row in rows]
    for seed, member, message in [
        (None, 4, "member: '.*' has the members 0 to 3, got 4"),
        (None, -1, "member: '.*' has the members 0 to 3, got -1"),
        (3, 1, "member: 1 of '.*' has seed 4, not 3"),
        (5, 1, "seed: '.*' has the seeds 3 to 4, got 5"),
    ]:
        with pytest.raises(ConfigError, match=message):
            restore(tmp_path / "run", seed, "newest", pytest.fail, member)


def test_without_a_best_one_the_newest_is_taken_and_that_is_said(run_dir, saved):
    (run_dir / "checkpoints" / "best").unlink()
    restored, warnings = read(run_dir)
    assert_is(restored, saved[1]["7"], [0, 1])
    assert restored.checkpoint == "newest" and warnings == ["no best checkpoint, the newest is taken: 7"]


def test_what_is_not_intact_is_skipped_with_a_warning(run_dir, saved):
    damage(run_dir / "checkpoints" / "best")
    for file in (run_dir / "checkpoints" / "7" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    restored, warnings = read(run_dir)
    assert_is(restored, saved[1]["5"], [0, 1])
    assert restored.env_steps == [5 * ITERATION] * 2
    assert [text.split(" is not intact")[0] for text in warnings[:2]] == ["checkpoint best-3", "checkpoint 7"]


def test_what_was_not_finished_is_no_checkpoint(run_dir, saved):
    (run_dir / "checkpoints" / "7" / "manifest.json").unlink()
    restored, warnings = read(run_dir, "newest")
    assert_is(restored, saved[1]["5"], [0, 1])
    assert warnings == []


def test_a_best_one_that_training_replaces_meanwhile_is_read_anew(run_dir, saved, monkeypatch):
    folder, read_tree = run_dir / "checkpoints", module.read_tree

    def replace_first(path, like):
        if path.name == "best-3":
            (folder / "best-3").rename(folder / "best-6")
            (folder / "best").unlink()
            (folder / "best").symlink_to("best-6")
        return read_tree(path, like)

    monkeypatch.setattr(module, "read_tree", replace_first)
    restored, warnings = read(run_dir)
    assert_is(restored, saved[1]["best"], [0, 1])
    assert restored.checkpoint == "best" and warnings == []


def test_a_run_whose_optimizer_was_kept_otherwise_can_be_used_and_not_resumed(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(me_igm, "clipped_adam", lambda hyper, rate: optax.sgd(rate, momentum=0.9))
        states = save_run(tmp_path / "run", "+env=matrix_game", newest=(5,))
    restored, warnings = read(tmp_path / "run", "newest")
    assert warnings == []
    assert_is(restored, states["5"], [0, 1])
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", restored.config)
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is intact"):
        checkpoints.restore(random_state(restored.config, 5), warnings.append)
    assert warnings == ["checkpoint 5 is not intact and is skipped: another version of meigm_jax has saved it"]


def test_the_replay_takes_no_memory(run_dir, saved):
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["replay"]["capacity"] = 2**45  # thousands of terabytes
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert_is(read(run_dir)[0], saved[1]["best"], [0, 1])


def test_when_none_is_intact_that_is_one_error(run_dir):
    for name in ("best", "5", "7"):
        damage(run_dir / "checkpoints" / name)
    with pytest.raises(ConfigError, match="is intact"):
        read(run_dir)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 5}, "seed: .* has the seeds 3 to 4, got 5"),
        ({"checkpoint": "last"}, "checkpoint: expected one of best, newest, got 'last'"),
    ],
)
def test_what_the_run_has_not_is_one_error(saved, arguments, message):
    with pytest.raises(ConfigError, match=message):
        read(saved[0], **arguments)


def test_a_run_without_checkpoint_is_one_error(run_dir):
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        read(run_dir)
    with pytest.raises(ConfigError, match="is not a run directory"):
        read(run_dir / "nowhere")
