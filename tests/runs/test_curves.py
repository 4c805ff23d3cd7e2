"""Reading runs back: which rows count, which seeds make a line, what it is called, and intervals by hand."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from meigm_jax.registry import ConfigError
from meigm_jax.runs import curves
from meigm_jax.runs.curves import Measure

WIN_RATE = Measure("win_rate", "eval", "greedy")
CONFIG = {
    "seed": 0,
    "seeds": 2,
    "total_env_steps": 30,
    "run_dir": None,
    "name": None,
    "env": {"name": "smax_3m", "options": {"max_steps": 100}},
    "algo": {"name": "me_qmix", "opt": {"name": "affine", "hypernet_dim": 64}},
    "hyper": {"target_entropy": 0.24, "gamma": 0.99},
    "train": {"num_envs": 16},
    "evaluation": {"interval": 10, "policies": ["greedy"]},
    "checkpoint": {"keep": 2},
    "log": {"interval": 10},
    "wandb": {"mode": "disabled"},
    "versions": {"jax": "0.12"},
}


def row(seed: int, steps: int, value: float | None, **more) -> dict:
    about = {"kind": "eval", "policy": "greedy", "member": seed, "seed": seed, "env_steps": steps, "hyper": {}}
    return {**about, "win_rate": value, **more}


def write(run_dir: Path, rows: list[dict], written: float = 1e9, **changes) -> Path:
    """A run directory, killed while writing; `changes` are dotted keys of its configuration, with __ for the dots."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *sections, last = key.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[last] = value
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.dumps(row) + "\n" for row in rows]
    (run_dir / "metrics.jsonl").write_text("".join(lines) + '{"kind": "eval", "env_st')
    os.utime(run_dir / "metrics.jsonl", (written, written))
    return run_dir


def pool(*run_dirs: Path, measure: Measure = WIN_RATE) -> tuple[list[curves.Line], list[str]]:
    warnings: list[str] = []
    members = [member for run_dir in run_dirs for member in curves.read_members(run_dir)]
    return curves.pool(members, measure, warnings.append), warnings


def names(*run_dirs: Path) -> list[str]:
    lines, warnings = pool(*run_dirs)
    assert not warnings
    return [line.name for line in lines]


def test_runs_are_found_at_and_below_a_folder_but_not_inside_each_other(tmp_path):
    found = [write(tmp_path / name, []) for name in ("smax_3m/qmix/a", "smax_5v5/qmix/b", "c")]
    write(tmp_path / "c" / "checkpoints" / "copy", [])
    (tmp_path / "no_metrics_yet").mkdir()
    (tmp_path / "no_metrics_yet" / "config.yaml").touch()
    assert curves.find_runs(tmp_path) == sorted(found)
    assert curves.find_runs(found[0]) == [found[0]]


def test_a_line_holds_the_rows_of_its_kind_and_policy_by_seed_and_step(tmp_path):
    run = write(
        tmp_path / "run",
        [
            row(1, 10, 0.25),
            row(0, 10, 0.5),
            row(0, 20, 0.75),
            row(1, 20, None),
            row(0, 10, 9.0, policy="sampled"),
            row(0, 30, 9.0, kind="train", policy=None),
            row(0, 30, 0.5),
            row(1, 30, 0.75),
        ],
    )
    [line], warnings = pool(run)
    assert (line.name, warnings) == ("me_qmix", [])
    assert line.curve.env_steps.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(line.curve.values, [[0.5, 0.75, 0.5], [0.25, math.nan, 0.75]])


@pytest.mark.parametrize("policies", [("greedy", "mode", "sampled"), ("mode", "sampled")])
def test_of_several_policies_the_same_is_always_chosen(tmp_path, policies):
    rows = [row(0, 10, 0.5) | {"policy": policy} for policy in policies]
    members = curves.read_members(write(tmp_path / "run", rows))
    assert curves.choose(members) == WIN_RATE._replace(policy=policies[0])


def test_seeds_of_runs_with_the_same_configuration_are_one_line(tmp_path):
    one = write(tmp_path / "one", [row(3, 10, 0.5), row(4, 10, 0.75)], seed=3)
    other = write(
        tmp_path / "other",
        [row(0, 10, 0.25)],
        total_env_steps=99,
        name="other",
        evaluation__interval=5,
        log__interval=7,
        checkpoint__keep=9,
        wandb__mode="offline",
        versions__jax="0.13",
    )
    [line], warnings = pool(one, other)
    assert (line.name, warnings) == ("me_qmix", [])
    np.testing.assert_array_equal(line.curve.values, [[0.25], [0.5], [0.75]])  # seeds 0, 3, 4


def test_a_seed_that_was_trained_twice_counts_once_with_the_newest_run(tmp_path):
    new = write(tmp_path / "a_new", [row(0, 10, 0.25), row(1, 10, 0.5)], written=1e9 + 60)
    old = write(tmp_path / "b_old", [row(1, 10, 0.75), row(2, 10, 1.0)], written=1e9)
    [line], [warning] = pool(new, old)
    np.testing.assert_array_equal(line.curve.values, [[0.25], [0.5], [1.0]])
    assert warning == f"me_qmix: seed 1 twice, in {old} and {new}; the latter goes further or is newer, and is kept"


def test_of_a_seed_that_was_trained_twice_a_shorter_run_does_not_count(tmp_path):
    long = write(tmp_path / "long", [row(0, steps, 0.5) for steps in (10, 20)], written=1e9)
    write(tmp_path / "short", [row(0, 10, 0.75)], written=1e9 + 60)
    [line], [warning] = pool(long, tmp_path / "short")
    np.testing.assert_array_equal(line.curve.values, [[0.5, 0.5]])
    assert f"in {tmp_path / 'short'} and {long}; the latter goes further" in warning


def test_a_line_that_lacks_most_of_what_its_seeds_have_says_so(tmp_path):
    fine = write(tmp_path / "fine", [row(0, steps, 0.5) for steps in (10, 20, 30, 40)])
    coarse = write(tmp_path / "coarse", [row(1, steps, 0.5) for steps in (35, 40)])
    [line], [warning] = pool(fine, coarse)
    assert line.curve.env_steps.tolist() == [40]
    assert warning == "me_qmix has 1 env steps; 4 more, from 10 on, are not of all its seeds"


def test_a_line_ends_with_the_first_of_its_seeds(tmp_path):
    long = write(tmp_path / "long", [row(0, steps, 0.5) for steps in (10, 20, 30)])
    short = write(tmp_path / "short", [row(1, 10, 0.0), row(1, 15, 0.25), row(1, 20, 1.0)])
    [line], [warning] = pool(long, short)
    assert line.curve.env_steps.tolist() == [10, 20]
    np.testing.assert_array_equal(line.curve.values, [[0.5, 0.5], [0.0, 1.0]])
    assert warning == "me_qmix ends at 20 env steps, with seed 1; other seeds go on to 30"


def test_a_seed_that_became_nan_ends_the_line_as_well(tmp_path):
    run = write(tmp_path / "run", [row(s, t, None if s and t > 10 else 0.5) for s in (0, 1) for t in (10, 20, 30)])
    [line], [warning] = pool(run)
    assert np.isnan(line.curve.values[1]).tolist() == [False, True, True]
    assert "ends at 10 env steps, with seed 1; other seeds go on to 30" in warning


def test_seeds_without_any_value_are_named_and_left_out(tmp_path):
    started = write(tmp_path / "started", [row(1, 10, 0.1, kind="train", policy=None)])
    [line], [warning] = pool(write(tmp_path / "run", [row(0, 10, 0.5)]), started)
    assert line.curve.values.tolist() == [[0.5]]
    assert warning == f"me_qmix: seed 1 without win_rate in any eval row, left out: {started}"


def test_seeds_that_share_no_env_step_make_no_line(tmp_path):
    lines, [warning] = pool(write(tmp_path / "a", [row(0, 10, 0.5)]), write(tmp_path / "b", [row(1, 15, 0.5)]))
    assert lines == []
    assert "its 2 seeds share no env step" in warning


def test_lines_are_named_by_exactly_what_differs(tmp_path):
    runs = [
        write(tmp_path / "a", [row(0, 10, 0.5)], hyper__target_entropy=0.5, train__num_envs=8),
        write(tmp_path / "b", [row(0, 10, 0.5)]),
        write(tmp_path / "c", [row(0, 10, 0.5)], algo__name="qmix", hyper__gamma=0.9),
    ]
    assert names(*runs) == ["me_qmix target_entropy=0.24 num_envs=16", "me_qmix target_entropy=0.5 num_envs=8", "qmix"]


def test_lines_that_were_not_trained_on_the_same_task_say_so(tmp_path):
    short = write(tmp_path / "short", [row(0, 10, 0.5)], algo__name="qmix", env__options={"max_steps": 50})
    assert names(write(tmp_path / "a", [row(0, 10, 0.5)]), short) == [
        "me_qmix options.max_steps=100",
        "qmix options.max_steps=50",
    ]


def test_values_are_in_order_of_size(tmp_path):
    runs = [write(tmp_path / str(n), [row(0, 10, 0.5)], train__num_envs=n) for n in (16, 128, 4)]
    assert names(*runs) == ["me_qmix num_envs=4", "me_qmix num_envs=16", "me_qmix num_envs=128"]


def test_members_of_a_sweep_are_lines_and_are_pooled_with_runs_of_the_same_value(tmp_path):
    grid = [(0, 0, 0.12), (1, 1, 0.12), (2, 0, 0.24), (3, 1, 0.24)]  # member, seed, target entropy
    sweep = [row(seed, 10, 0.1 * m, member=m, hyper={"target_entropy": value}) for m, seed, value in grid]
    plain = write(tmp_path / "plain", [row(7, 10, 0.9)])
    lines, warnings = pool(write(tmp_path / "sweep", sweep), plain)
    assert not warnings
    assert {line.name: line.curve.values.ravel().tolist() for line in lines} == {
        "me_qmix target_entropy=0.12": [0.0, 0.1],
        "me_qmix target_entropy=0.24": [0.2, pytest.approx(0.3), 0.9],
    }


def test_numbers_that_are_one_float32_are_one_configuration(tmp_path):
    swept = row(1, 10, 0.5, hyper={"target_entropy": float(np.float32(0.24))})
    assert names(write(tmp_path / "a", [row(0, 10, 0.5)]), write(tmp_path / "b", [swept])) == ["me_qmix"]


def test_another_part_is_named_without_the_options_that_only_it_has(tmp_path):
    affine = write(tmp_path / "affine", [row(0, 10, 0.5)])
    identity = write(tmp_path / "identity", [row(0, 10, 0.5)], algo__opt={"name": "identity"})
    assert names(affine, identity) == ["me_qmix opt=affine", "me_qmix opt=identity"]


def test_a_key_that_older_runs_lack_is_unset_there(tmp_path):
    old = write(tmp_path / "old", [row(0, 10, 0.5)])
    new = write(tmp_path / "new", [row(0, 10, 0.5)], replay={"priority": 0.5})
    assert names(old, new) == ["me_qmix priority=0.5", "me_qmix priority=unset"]


@pytest.mark.parametrize("damage", ["config: [", "- 1", "env: {name: smax_3m}", "\x00"])
def test_a_damaged_configuration_is_named(tmp_path, damage):
    run = write(tmp_path / "run", [row(0, 10, 0.5)])
    (run / "config.yaml").write_text(damage)
    with pytest.raises(ConfigError, match=f"{run} cannot be read"):
        curves.read_members(run)


def test_what_is_left_open_is_chosen_by_what_there_is(tmp_path):
    def choose(*rows: dict, **asked) -> Measure:
        run = write(tmp_path / str(len(list(tmp_path.iterdir()))), list(rows))
        return curves.choose(curves.read_members(run), **asked)

    rows = [
        row(0, 10, 0.5, policy="sampled", **{"return": 1.0}),
        row(0, 10, 0.5, **{"return": 1.0}),
        row(0, 10, 0.5, kind="train", policy=None, alpha=0.1, loss_td=None, **{"return": 1.0}),
    ]
    assert choose(*rows) == WIN_RATE
    assert choose(*rows, metric="return") == Measure("return", "eval", "greedy")
    assert choose(*rows, policy="sampled") == Measure("win_rate", "eval", "sampled")
    assert choose(*rows, kind="train") == Measure("win_rate", "train", None)
    assert choose(*rows, metric="alpha") == Measure("alpha", "train", None)
    assert choose(row(0, 10, None, **{"return": 1.0})) == Measure("return", "eval", "greedy")
    assert choose(rows[0]) == Measure("win_rate", "eval", "sampled")
    with pytest.raises(ConfigError, match=r"no rows have 'alfa'; did you mean alpha.* known: alpha, return, win_rate"):
        choose(*rows, metric="alfa")
    with pytest.raises(ConfigError, match="no rows have 'loss_td'"):
        choose(*rows, metric="loss_td")
    with pytest.raises(ConfigError, match="no sampled eval rows have 'alpha'; known: return, win_rate"):
        choose(*rows, metric="alpha", kind="eval", policy="sampled")
    with pytest.raises(ConfigError, match="no eval rows with values"):
        choose(rows[2], kind="eval")


def test_interval_of_three_seeds_by_hand():
    found = curves.interval(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    half = 4.302653 * 1.0 / math.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    np.testing.assert_allclose(found.mean, [2.0, 5.0])
    np.testing.assert_allclose(found.low, [2.0 - half, 5.0], rtol=1e-6)
    np.testing.assert_allclose(found.high, [2.0 + half, 5.0], rtol=1e-6)


@pytest.mark.parametrize("aggregate", ["mean", "iqm"])
@pytest.mark.parametrize("band", ["ci", "range"])
def test_one_seed_has_no_interval(aggregate, band):
    found = curves.interval(np.array([[1.0]]), aggregate, band)
    assert found.mean[0] == 1.0
    assert math.isnan(found.low[0]) and math.isnan(found.high[0])


@pytest.mark.parametrize("aggregate", ["mean", "iqm"])
@pytest.mark.parametrize("band", ["ci", "range"])
def test_a_step_where_a_seed_has_no_value_has_no_mean_and_no_interval(aggregate, band):
    values = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, math.nan], [9.0, 9.0]])
    for found in curves.interval(values, aggregate, band):
        assert np.isnan(found).tolist() == [False, True]


def test_range_and_no_band_by_hand():
    values = np.array([[1.0, 7.0], [2.0, 5.0], [6.0, 6.0]])
    found = curves.interval(values, band="range")
    assert [x.tolist() for x in found] == [[3.0, 6.0], [1.0, 5.0], [6.0, 7.0]]
    assert np.isnan(curves.interval(values, band="none").low).all()


def test_interquartile_mean_is_that_of_the_middle_half():
    values = np.array([[-100.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [100.0]])
    assert curves.interval(values, "iqm").mean[0] == 3.5


def test_bootstrap_interval_of_two_seeds_by_hand():
    found = curves.interval(np.array([[0.0, 4.0], [1.0, 4.0]]), "iqm")  # both draws the same seed: 1/4 each
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, 4.0], [1.0, 4.0])


def test_bootstrap_interval_equals_scipys():
    seeds = np.random.default_rng(3).normal(size=12)
    found = curves.interval(seeds[:, None], "iqm")
    theirs = stats.bootstrap(
        (seeds,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    np.testing.assert_allclose([found.low[0], found.high[0]], theirs, atol=0.08)  # of 1.1 wide
    assert curves.interval(seeds[:, None], "iqm").low[0] == found.low[0]


def test_smoothing_averages_whole_windows_of_the_past():
    curve = curves.Curve(np.array([10, 20, 30, 40]), np.array([[1.0, 2.0, 6.0, 1.0], [0.0, 0.0, math.nan, 3.0]]))
    found = curves.smooth(curve, 2)
    assert found.env_steps.tolist() == [20, 30, 40]
    np.testing.assert_array_equal(found.values, [[1.5, 4.0, 3.5], [0.0, math.nan, math.nan]])
    assert curves.smooth(curve, 5).env_steps.size == 0
