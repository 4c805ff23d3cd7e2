"""A run directory whose learners are random numbers, made in a moment: each checkpoint has others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from meigm_jax.config import Config, to_dict
from meigm_jax.engine.train_step import TrainState
from meigm_jax.runs.checkpoint import Checkpoints
from meigm_jax.runs.trainer import make_trainer, member_hypers, member_seeds
from meigm_jax.train import configure

SMALL = "+experiment=smoke seed=3 seeds=2 train.num_envs=2 replay.capacity=8 log.progress=false".split()


def save_run(
    run_dir: Path, *arguments: str, newest: Sequence[int] = (), best: int | None = None
) -> dict[str, TrainState]:
    """Write a run with two seeds, 3 and 4, and the checkpoints of these iterations; the state of each by its name."""
    config = configure(*SMALL, *arguments)
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(to_dict(config) | {"versions": {"jax": "0"}}))
    checkpoints, states = Checkpoints(run_dir / "checkpoints", config), {}
    for iteration in newest:
        states[str(iteration)] = random_state(config, iteration)
        checkpoints.save(states[str(iteration)], iteration, {})
    if best is not None:
        states["best"] = state = random_state(config, best)
        everyone = np.ones(state.key.shape, bool)
        checkpoints.save_best(checkpoints.best_with(state, best, everyone, print), state.key, {})
    return states


def random_state(config: Config, number: int) -> TrainState:
    """What the trainer's own `init` would take ten seconds to compile."""
    generator = np.random.default_rng(number)
    seeds, hypers = member_seeds(config), member_hypers(config)

    def fill(shape: Any) -> jax.Array:
        return jnp.asarray(generator.normal(0.0, 0.3, shape.shape).astype(shape.dtype))

    state = jax.eval_shape(make_trainer(config, 1).init, seeds, hypers)
    learner, replay = jax.tree.map(fill, (state.learner, state.replay))
    return TrainState(
        learner._replace(hyper=jax.tree.map(jnp.asarray, hypers)), replay, jax.vmap(jax.random.key)(seeds)
    )
