"""Reading what runs have measured: curves over env steps, one row per seed, and intervals over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Curve(NamedTuple):
    """One metric of one run over training."""

    env_steps: np.ndarray  # i64[K], per seed
    values: np.ndarray  # f64[S, K]; NaN where a seed has no value


class Interval(NamedTuple):
    """Mean over seeds and its 95 % Student-t confidence interval (NaN with a single seed), f64[K] each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Every whole line of the run's metrics.jsonl. Raises OSError where there is none."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def curve(run_dir: Path, metric: str, kind: str = "eval", policy: str = "greedy") -> Curve:
    """`metric` of the rows of `kind`; evaluation rows of `policy` only. Raises KeyError when no row has it."""
    rows = [row for row in read_rows(run_dir) if row["kind"] == kind and row.get("policy", policy) == policy]
    rows = [row for row in rows if row.get(metric) is not None]
    if not rows:
        raise KeyError(f"{run_dir}: no {kind} rows with '{metric}'")
    steps = sorted({row["env_steps"] for row in rows})
    members = sorted({row["member"] for row in rows})
    values = np.full((len(members), len(steps)), np.nan)
    for row in rows:
        values[members.index(row["member"]), steps.index(row["env_steps"])] = row[metric]
    return Curve(np.array(steps), values)


def interval(values: np.ndarray) -> Interval:
    """Mean over the first axis (seeds) with its 95 % Student-t interval. values: f64[S, K]."""
    seeds = values.shape[0]
    mean = values.mean(axis=0)
    if seeds < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=0, ddof=1) / np.sqrt(seeds)
    return Interval(mean, mean - half, mean + half)
