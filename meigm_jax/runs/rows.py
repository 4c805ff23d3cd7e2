"""What a row of metrics.jsonl holds, and which of its measurements decides. Imports no jax."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Row = dict[str, Any]
ABOUT = {"kind", "env_steps", "grad_steps", "seed", "member", "hyper", "wall_time", "policy", "episodes"}
TRAIN_KEYS = (  # every training row has them; null where an algorithm has no such thing
    "return episode_length loss_td loss_opt alpha entropy target_entropy q_tot_mean grad_norm opt_error "
    "misalignment epsilon"
).split()
DECISIVE = ("win_rate", "return")  # of an evaluation; returns tell where wins tie


def row_key(metric: str) -> str:
    """The key in a row of what the engine calls `metric`: a win of many episodes is a rate."""
    return "win_rate" if metric == "win" else metric


def metric_keys(row: Row) -> list[str]:
    """The keys of a row that are measurements."""
    return [key for key in row if key not in ABOUT]


def main_policy(policies: Collection[str]) -> str:
    """The policy that decides which evaluation is the best, and that tables show: greedy, else the first."""
    return "greedy" if "greedy" in policies else next(iter(policies))


def decisive(evaluation: Mapping[str, Any]) -> list[str]:
    """The metrics that decide which evaluation is better, the first before the second."""
    return [metric for metric in DECISIVE if metric in evaluation]
