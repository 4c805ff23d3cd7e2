"""The run directory on the disk: taking a new one, finding an old one, its config.yaml."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from meigm_jax.config import Config, run_directory, steps_per_iteration, to_dict
from meigm_jax.registry import ConfigError
from meigm_jax.runs.files import free, taken, write_text
from meigm_jax.runs.machine import versions
from meigm_jax.runs.progress import Schedule


def new(config: Config) -> Path:
    """Where a new run will lie. Raises ConfigError when something is there, or it can't be made.

    A run that is named after the time gets a number besides where another was started in the same second.
    """
    run_dir = run_directory(config)
    if _named_after_the_time(config):
        run_dir = free(run_dir)
    if taken(run_dir):
        go_on = f", or go on with resume={shlex.quote(str(run_dir))}" if (run_dir / "config.yaml").is_file() else ""
        raise ConfigError(f"run_dir: {run_dir} exists; choose another name or run_dir{go_on}")
    absolute = run_dir.absolute()
    above = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"run_dir: cannot make {run_dir}: {above} is not a folder that can be written to")
    return run_dir


def _named_after_the_time(config: Config) -> bool:
    return not (config.name or config.run_dir)


def old(run_dir: Path) -> Path:
    """`run_dir` itself. Raises ConfigError when no run lies there, or nothing can be written there."""
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"resume: {run_dir} is not a run directory (it has no config.yaml)")
    for path in (run_dir, run_dir / "metrics.jsonl", run_dir / "checkpoints"):
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"resume: {path} can't be written to")
    return run_dir


def begin(config: Config, run_dir: Path) -> Path:
    """The run directory with its config.yaml, for this process alone: `run_dir`, which `new` gave.

    Raises ConfigError, and leaves nothing that is new, when it can't be made or another process was first; where the
    time is its name, that gets another number.
    """
    made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    claim, ours = run_dir / "config.yaml", False
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        claim.touch(exist_ok=False)
        ours = True
        write_config(config, run_dir)
    except (OSError, ConfigError) as error:
        with contextlib.suppress(OSError):  # another run may have put something there
            if ours:
                claim.unlink()
            for path in made:
                path.rmdir()
        if _named_after_the_time(config) and taken(run_dir):
            return begin(config, new(config))
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"run_dir: cannot make {run_dir}: {error.strerror}") from error
    return run_dir


def write_config(config: Config, run_dir: Path) -> None:
    """config.yaml: everything that is configured, and the versions. Raises ConfigError when it can't be written."""
    plain, file = {**to_dict(config), "versions": versions(config)}, run_dir / "config.yaml"
    try:
        write_text(file, yaml.safe_dump(plain, sort_keys=False))
    except OSError as error:
        raise ConfigError(f"run_dir: cannot write {file}: {error.strerror}") from error


def finished(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """What summary.json says, if it is there and the run has no env steps left to do."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
        return summary if summary["env_steps"] >= Schedule(config).last * steps_per_iteration(config) else None
    except (OSError, ValueError, KeyError, TypeError):  # missing, or damaged: it is made again
        return None
