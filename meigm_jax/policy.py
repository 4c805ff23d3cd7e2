"""A trained policy for other people's code: `meigm_jax.load(run).act(...)`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.runs.restore import restore
from meigm_jax.types import Array, Env, Learner, TimeStep


class Policy(NamedTuple):
    """One seed's learner, ready to act in the environment that it was trained in.

    Attributes:
        env: bare: rewards and time steps in the environment's own units.
        seed: of the run.
        hyper: its values of what the run sweeps.
        env_steps: of training.
        init: number of environments E -> carry, the agents' memory.
        act: carry, TimeStep[E] of the bare env, key=None, greedy=True -> (actions i32[E, N], carry). Compiled; `first`
            in the time step clears the memory. greedy=False samples, and needs the key (ValueError without one).
    """

    env: Env
    seed: int
    hyper: dict[str, float]
    env_steps: int
    init: Callable[[int], Any]
    act: Callable[..., tuple[Array, Any]]


def load(run: str | Path, seed: int | None = None, checkpoint: str = "best", member: int | None = None) -> Policy:
    """The policy of the run's `seed` (None: its first) from its "best" checkpoint, else its "newest".

    Of a sweep the first point's, or that of `member`, a row of the batch as metrics.jsonl counts them. Raises
    ConfigError on what is no run, and on a run without such a member or without an intact checkpoint.
    """
    restored = restore(run, seed, checkpoint, partial(warnings.warn, stacklevel=4), member)
    env, algorithm, env_steps = restored.env, restored.algorithm, restored.env_steps[0]
    step = jnp.int32(env_steps)
    learner = jax.tree.map(lambda x: x[0], restored.learner)

    @partial(jax.jit, static_argnames="greedy")
    def compiled(learner: Learner, carry: Any, time_step: TimeStep, key: Array, greedy: bool) -> tuple[Array, Any]:
        normalised = jax.vmap(env.normalise)(time_step)
        return algorithm.act(learner, carry, normalised, key, step, "greedy" if greedy else "sampled")

    def act(carry: Any, time_step: TimeStep, key: Array | None = None, greedy: bool = True) -> tuple[Array, Any]:
        """Actions i32[E, N] and carry, from carry and TimeStep[E] of the bare env. A key only where not greedy."""
        if key is None and not greedy:
            raise ValueError("key: a sampled action needs one")
        return compiled(learner, carry, time_step, jax.random.key(0) if key is None else key, greedy=greedy)

    return Policy(env, restored.seeds[0], restored.hypers[0], env_steps, algorithm.init_carry, act)
