"""Reading curves back: which rows count, gaps, and intervals by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from meigm_jax.runs import curves


def write(run_dir: Path, *rows: dict) -> None:
    lines = [json.dumps(row) + "\n" for row in rows]
    (run_dir / "metrics.jsonl").write_text("".join(lines) + '{"kind": "eval", "env_st')  # killed while writing


def row(member: int, steps: int, value: float | None, **more) -> dict:
    return {"kind": "eval", "policy": "greedy", "member": member, "env_steps": steps, "win_rate": value, **more}


def test_a_curve_holds_the_rows_of_its_kind_and_policy_by_seed_and_step(tmp_path):
    write(
        tmp_path,
        row(1, 10, 0.25),
        row(0, 10, 0.5),
        row(0, 20, 0.75),
        row(1, 20, None),
        row(0, 10, 9.0, policy="sampled"),
        row(0, 30, 9.0, kind="train"),
    )
    found = curves.curve(tmp_path, "win_rate")
    assert found.env_steps.tolist() == [10, 20]
    np.testing.assert_array_equal(found.values, [[0.5, 0.75], [0.25, math.nan]])


def test_a_metric_that_no_row_has_is_named(tmp_path):
    write(tmp_path, row(0, 10, 0.5))
    with pytest.raises(KeyError, match="no eval rows with 'reward'"):
        curves.curve(tmp_path, "reward")


def test_interval_of_three_seeds_by_hand():
    found = curves.interval(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    half = 4.302653 * 1.0 / math.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    np.testing.assert_allclose(found.mean, [2.0, 5.0])
    np.testing.assert_allclose(found.low, [2.0 - half, 5.0], rtol=1e-6)
    np.testing.assert_allclose(found.high, [2.0 + half, 5.0], rtol=1e-6)


def test_one_seed_has_no_interval():
    found = curves.interval(np.array([[1.0]]))
    assert found.mean[0] == 1.0
    assert math.isnan(found.low[0]) and math.isnan(found.high[0])
