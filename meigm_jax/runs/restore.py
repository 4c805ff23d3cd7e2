"""What a run has learnt, read back to be used: its learners alone, never its replay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meigm_jax import envs
from meigm_jax.config import Config, steps_per_iteration
from meigm_jax.engine import train_step
from meigm_jax.registry import ConfigError, one_of
from meigm_jax.runs.checkpoint import read_manifest, read_tree
from meigm_jax.runs.saved import CHECKPOINTS, finished_checkpoints, read_config
from meigm_jax.runs.trainer import make_algorithm, make_sizes, member_hypers, member_seeds
from meigm_jax.types import Algorithm, Array, Env, Learner

Warn = Callable[[str], None]


class Restored(NamedTuple):
    """Members of a run as one of its checkpoints has them; arrays have the leading member axis S."""

    config: Config
    env: Env  # bare
    algorithm: Algorithm
    members: list[int]  # rows of the run's own member axis
    seeds: list[int]  # of these members
    learner: Learner
    key: Array  # the members' base keys
    checkpoint: str  # "best" or "newest": which it turned out to be
    env_steps: int  # at which it was made


def restore(run: str | Path, seed: int | None, checkpoint: str, warn: Warn) -> Restored:
    """The members of `run` with that seed (None: all) from its "best" checkpoint, else its "newest".

    What is not intact is skipped with a warning. Raises ConfigError on what is no run, and on a run without such a seed
    or without any intact checkpoint.
    """
    run = Path(run)
    config = read_config(run, "run")
    one_of(checkpoint, CHECKPOINTS, "checkpoint")
    seeds = [int(s) for s in np.asarray(member_seeds(config))]
    members = [member for member, s in enumerate(seeds) if seed is None or s == seed]
    if not members:
        raise ConfigError(f"seed: '{run}' has the seeds {_listed(seeds)}, got {seed}")
    if not finished_checkpoints(run, checkpoint):
        raise ConfigError(f"run: '{run}' has no checkpoint yet")
    env = envs.make(config.env.name, **config.env.options)
    algorithm = make_algorithm(config, env.training_spec or env.spec)
    init = jax.vmap(partial(train_step.init, env, algorithm, make_sizes(config)))
    like = jax.eval_shape(init, member_seeds(config), member_hypers(config))
    found, iteration, learner, key = _read(run, checkpoint, like, warn)
    learner, key = jax.tree.map(lambda x: x[np.array(members)], (learner, key))
    env_steps = iteration * steps_per_iteration(config)
    chosen_seeds = [seeds[member] for member in members]
    return Restored(config, env, algorithm, members, chosen_seeds, learner, key, found, env_steps)


def _read(run: Path, checkpoint: str, like: Any, warn: Warn) -> tuple[str, int, Learner, Array]:
    """Name, iteration, learners and keys of the preferred checkpoint among those that are intact.

    The folder is listed again after each failure: a run that is training replaces its checkpoints meanwhile.
    """
    tried: set[Path] = set()
    while untried := [folder for folder in finished_checkpoints(run, checkpoint) if folder not in tried]:
        folder = untried[0]
        tried.add(folder)
        try:
            learner, key = read_tree(folder, like)
            iteration = int(read_manifest(folder)["iteration"])
        except Exception as error:  # Orbax and TensorStore raise many kinds; all mean: not this one
            if folder in finished_checkpoints(run, checkpoint):
                reason = (str(error) or type(error).__name__).splitlines()[0]
                warn(f"checkpoint {folder.name} is not intact and is skipped: {reason}")
            continue
        found = "newest" if folder.name.isdigit() else "best"
        if found != checkpoint:
            warn(f"no best checkpoint, the newest is taken: {folder.name}")
        return found, iteration, learner, key
    raise ConfigError(f"run: no checkpoint in '{run / 'checkpoints'}' is intact")


def _listed(seeds: list[int]) -> str:
    """[0, 1, 2, 3] -> "0 to 3"."""
    unique = sorted(set(seeds))
    return f"{unique[0]} to {unique[-1]}" if len(unique) > 1 else str(unique[0])
