"""What a run comes to: the contents of summary.json, and the table that the command ends with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meigm_jax.config import Config, grid, members, steps_per_iteration
from meigm_jax.hyper import format_hyper, format_number
from meigm_jax.runs.machine import peak_memory
from meigm_jax.runs.progress import Progress
from meigm_jax.runs.rows import decisive


def summary_of(config: Config, progress: Progress, grad_steps: int) -> dict[str, Any]:
    """summary.json: cost and, per member, the final and the best evaluation and whether anything was not finite."""
    everyone, env_steps = members(config), progress.iteration * steps_per_iteration(config)
    return {
        "env": config.env.name,
        "algo": config.algo.name,
        "env_steps": env_steps,
        "grad_steps": grad_steps,
        "env_steps_per_second": len(everyone) * env_steps / progress.train_seconds,
        "compile_seconds": progress.compile_seconds,
        "wall_time": progress.wall_time,
        "peak_memory_bytes": peak_memory(),
        "seeds": [
            {
                "seed": seed,
                "member": member,
                "hyper": hyper,
                "final": progress.final[member],
                "best": progress.best[member],
                "non_finite": progress.non_finite[member],
            }
            for member, (seed, hyper) in enumerate(everyone)
        ],
    }


def table_of(config: Config, progress: Progress, policy: str, run_dir: Path) -> str:
    """The final evaluations by `policy`, what became of the members, and how to extend the run."""
    finals = [final[policy] for final in progress.final]
    metric = decisive(finals[0])[0]
    what = f"{policy} {metric.replace('_', ' ')} ({finals[0]['episodes']} episodes)"
    lines = _lines([final[metric] for final in finals], what, config)
    lines += [
        f"seed {seed} {f'of {format_hyper(hyper)} ' if hyper else ''}became NaN or infinite at {value} env steps"
        for (seed, hyper), value in zip(members(config), progress.non_finite, strict=True)
        if value is not None
    ]
    extend = f"total_env_steps={2 * config.total_env_steps}"
    lines += [f"run: {run_dir}", f"extend: python -m meigm_jax.train resume={shlex.quote(str(run_dir))} {extend}"]
    return "\n".join(lines)


def _lines(values: Sequence[float], what: str, config: Config) -> list[str]:
    """Lines with the value of every seed and their mean; of a sweep with the mean over seeds of each of its points."""
    means = np.reshape(values, (-1, config.seeds)).mean(axis=1)
    if not config.sweep:
        each = [f"{config.seed + k:6}   {value:.4g}" for k, value in enumerate(values)]
        return [f"  seed   {what}", *each, f"  mean   {means[0]:.4g}"]
    over = f", mean of {config.seeds} seeds" if config.seeds > 1 else ""
    widths = {name: max(map(len, [name, *map(format_number, values)])) for name, values in config.sweep.items()}
    lines = ["   ".join(["", *(name.rjust(width) for name, width in widths.items()), what + over])]
    for point, mean in zip(grid(config), means, strict=True):
        lines.append(
            "   ".join(["", *(format_number(point[name]).rjust(w) for name, w in widths.items()), f"{mean:.4g}"])
        )
    return lines
