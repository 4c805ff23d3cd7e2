"""What a run has learnt, read back to be used: its learners alone, never its replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meigm_jax import envs
from meigm_jax.config import Config, Member, members, num_members, steps_per_iteration
from meigm_jax.engine import train_step
from meigm_jax.registry import ConfigError, one_of
from meigm_jax.runs.checkpoint import read_iterations, read_tree, with_its_optimizer
from meigm_jax.runs.saved import CHECKPOINTS, finished_checkpoints, read_config
from meigm_jax.runs.trainer import make_algorithm, make_sizes, member_hypers, member_seeds, recomputes
from meigm_jax.types import Algorithm, Array, Env, Learner

Warn = Callable[[str], None]


class Restored(NamedTuple):
    """Members of a run as one of its checkpoints has them; arrays have the leading member axis S."""

    config: Config
    env: Env  # bare
    algorithm: Algorithm
    members: list[int]  # rows of the run's own member axis
    seeds: list[int]  # of these members
    hypers: list[dict[str, float]]  # of these members: their values of what the run sweeps
    learner: Learner
    key: Array  # the members' base keys
    checkpoint: str  # "best" or "newest": which it turned out to be
    env_steps: list[int]  # at which these members' learners were saved: in the best of a sweep each point has its own


def restore(run: str | Path, seed: int | None, checkpoint: str, warn: Warn, member: int | None = None) -> Restored:
    """The members of `run` with that seed and number (None: all) from its "best" checkpoint, else its "newest".

    What is not intact is skipped with a warning. Raises ConfigError on what is no run, and on a run without such a
    member or without any intact checkpoint.
    """
    run = Path(run)
    config = read_config(run, "run")
    one_of(checkpoint, CHECKPOINTS, "checkpoint")
    chosen = _chosen(run, members(config), seed, member)
    if not finished_checkpoints(run, checkpoint):
        raise ConfigError(f"run: '{run}' has no checkpoint yet")
    env = envs.make(config.env.name, **config.env.options)
    algorithm = make_algorithm(config, env.training_spec or env.spec)
    init = jax.vmap(partial(train_step.init, env, algorithm, make_sizes(config, recomputes(config, env))))
    like = jax.eval_shape(init, member_seeds(config), member_hypers(config))
    found, iterations, learner, key = _read(run, checkpoint, like, num_members(config), warn)
    learner, key = jax.tree.map(lambda x: x[np.array(list(chosen))], (learner, key))
    env_steps = [iterations[row] * steps_per_iteration(config) for row in chosen]
    seeds, hypers = [each.seed for each in chosen.values()], [each.hyper for each in chosen.values()]
    return Restored(config, env, algorithm, list(chosen), seeds, hypers, learner, key, found, env_steps)


def _chosen(run: Path, everyone: list[Member], seed: int | None, member: int | None) -> dict[int, Member]:
    """Those with that seed and that number, by their number."""
    seeds = [each.seed for each in everyone]
    if seed is not None and seed not in seeds:
        raise ConfigError(f"seed: '{run}' has the seeds {_listed(seeds)}, got {seed}")
    if member is not None and not 0 <= member < len(everyone):
        raise ConfigError(f"member: '{run}' has the members {_listed(range(len(everyone)))}, got {member}")
    if seed is not None and member is not None and seeds[member] != seed:
        raise ConfigError(f"member: {member} of '{run}' has seed {seeds[member]}, not {seed}")
    rows = enumerate(everyone)
    return {row: each for row, each in rows if seed in (None, each.seed) and member in (None, row)}


def _read(run: Path, checkpoint: str, like: Any, members: int, warn: Warn) -> tuple[str, list[int], Learner, Array]:
    """Name, the members' iterations, learners and keys of the preferred checkpoint among those that are intact.

    The folder is listed again after each failure: a run that is training replaces its checkpoints meanwhile.
    """
    tried: set[Path] = set()
    while untried := [folder for folder in finished_checkpoints(run, checkpoint) if folder not in tried]:
        folder = untried[0]
        tried.add(folder)
        try:
            learner, key = read_tree(folder, with_its_optimizer(folder, like))
            iterations = read_iterations(folder, members)
        except Exception as error:  # Orbax and TensorStore raise many kinds; all mean: not this one
            if folder in finished_checkpoints(run, checkpoint):
                reason = (str(error) or type(error).__name__).splitlines()[0]
                warn(f"checkpoint {folder.name} is not intact and is skipped: {reason}")
            continue
        found = "newest" if folder.name.isdigit() else "best"
        if found != checkpoint:
            warn(f"no best checkpoint, the newest is taken: {folder.name}")
        return found, iterations, learner, key
    raise ConfigError(f"run: no checkpoint in '{run / 'checkpoints'}' is intact")


def _listed(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 3] -> "0 to 3"."""
    unique = sorted(set(numbers))
    return f"{unique[0]} to {unique[-1]}" if len(unique) > 1 else str(unique[0])
