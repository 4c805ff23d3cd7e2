"""A trainer in miniature for tests of the loop: the same interface, no environment, compiled in a moment.

Its parameters depend on everything in the replay, so whatever a checkpoint loses shows in them.
As a command (`python -m tests.runs.fake RUN_DIR SECONDS [key=value ...]`) it trains slowly, to be stopped from outside;
SECONDS `inf` means that the first chunk never ends, outside of Python.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from meigm_jax.config import Config, num_members
from meigm_jax.engine.train_step import TrainState
from meigm_jax.runs.loop import run
from meigm_jax.runs.trainer import Trainer, make_sizes
from meigm_jax.train import configure
from meigm_jax.types import Learner

SMALL = (
    "+env=matrix_game algo=qmix seeds=2 total_env_steps=160 train.num_envs=2 train.chunk_length=4 replay.capacity=8 "
    "train.warmup_sequences=6 train.updates_per_chunk=3 log.interval=24 log.progress=false evaluation.interval=50 "
    "evaluation.episodes=4 evaluation.final_episodes=8 evaluation.policies=[greedy,sampled] "
    "checkpoint.interval_seconds=0"
).split()  # 20 iterations of 8 env steps; the ring wraps every 4
NO_ENV: Any = None


class FakeReplay(NamedTuple):
    obs: jax.Array  # bf16[S, C, 3]
    flag: jax.Array  # bool[S, C]


def small_config(run_dir: Path, *overrides: str) -> Config:
    return configure(*SMALL, f"run_dir={run_dir}", *overrides)


def make_trainer(config: Config, max_iterations: int) -> Trainer:
    sizes = make_sizes(config, recomputed=False)
    optimizer = optax.adam(0.1)

    def init_one(seed, hyper):
        params = {"w": jax.random.normal(jax.random.key(seed), (3,))}
        learner = Learner(params, jax.tree.map(jnp.copy, params), optimizer.init(params), hyper)
        capacity = config.replay.capacity
        replay = FakeReplay(jnp.zeros((capacity, 3), jnp.bfloat16), jnp.zeros(capacity, bool))
        return TrainState(learner, replay, jax.random.key(seed))

    def step(state, i):
        key = jax.random.fold_in(state.key, i)
        rows = jax.random.normal(key, (sizes.num_envs, 3)) + state.learner.params["w"]
        slot = i * sizes.num_envs % sizes.capacity
        obs = jax.lax.dynamic_update_slice_in_dim(state.replay.obs, rows.astype(jnp.bfloat16), slot, 0)
        flag = jax.lax.dynamic_update_slice_in_dim(state.replay.flag, rows[:, 0] > 0, slot, 0)
        weights = jnp.arange(1.0, sizes.capacity + 1) * jnp.where(flag, 1.0, -1.0)
        gradient = {"w": weights @ obs.astype(jnp.float32)}
        updates, memory = optimizer.update(gradient, state.learner.optimizer_state)
        ready = i >= sizes.warmup_iterations
        rate = state.learner.hyper.alpha_learning_rate / jnp.float32(0.01)  # 1 by default
        params = jax.tree.map(lambda p, u: jnp.where(ready, p + rate * u, p), state.learner.params, updates)
        learner = state.learner._replace(params=params, optimizer_state=memory)
        loss = jnp.where(ready, jnp.sum(gradient["w"] ** 2), jnp.nan)
        metrics = {"return": rows.mean(), "win_rate": jnp.mean(rows > 0), "loss_td": loss, "opt_error": jnp.nan * loss}
        return TrainState(learner, FakeReplay(obs, flag), state.key), metrics

    @jax.jit
    def run_jitted(state, start, count):
        def iteration(i, carry):
            state, metrics = jax.vmap(step, in_axes=(0, None))(carry[0], start + i)
            return state, {name: carry[1][name].at[i].set(x) for name, x in metrics.items()}

        names = ("return", "win_rate", "loss_td", "opt_error")
        empty = {name: jnp.full((max_iterations, num_members(config)), jnp.nan) for name in names}
        return jax.lax.fori_loop(0, count, iteration, (state, empty))

    def evaluate(learner, key, env_steps, policy, *, episodes):
        keys = jax.vmap(lambda k: jax.random.fold_in(k, env_steps))(key)
        noise = jax.vmap(lambda k: jax.random.normal(k, (episodes,)))(keys) * (0.1 if policy == "greedy" else 1.0)
        value = learner.params["w"].mean(axis=1, keepdims=True) + noise
        return {"return": value, "episode_length": jnp.ones_like(value), "win": (value > 0).astype(jnp.float32)}

    return Trainer(
        NO_ENV,
        NO_ENV,
        sizes,
        replay_bytes=8 * 1024,
        init=jax.jit(jax.vmap(init_one)),
        run=run_jitted,
        evaluate=evaluate,
    )


def make_slow_trainer(seconds: float) -> Callable[[Config, int], Trainer]:
    """Maker of trainers whose chunks take `seconds` and are announced."""

    def make(config: Config, max_iterations: int) -> Trainer:
        trainer = make_trainer(config, max_iterations)

        def slow(state, first, count):
            print("chunk", first, flush=True)
            if math.isinf(seconds):
                jax.block_until_ready(jax.jit(lambda: jax.lax.while_loop(lambda x: x < 1.0, lambda x: x * 0.5, 0.5))())
            time.sleep(seconds)
            return trainer.run(state, first, count)

        return trainer._replace(run=slow)

    return make


def main() -> None:
    run_dir, seconds, overrides = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    config = small_config(run_dir, "checkpoint.interval_seconds=1000", *overrides)
    run(config, run_dir if run_dir.exists() else None, make_slow_trainer(seconds))


if __name__ == "__main__":
    main()
