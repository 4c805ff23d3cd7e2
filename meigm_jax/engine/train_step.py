"""One iteration of training as a pure function of one member's state: collect, store, learn.

Every counter is unbatched: it follows from the iteration number, which members share. A counter inside the vmapped
state would turn each `lax.cond` into a select and each buffer write into a scatter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from meigm_jax.engine import replay as replays
from meigm_jax.engine.rollout import collect
from meigm_jax.ops import policies, shards
from meigm_jax.types import Algorithm, Array, Env, Hyper, Learner, Metrics, Trajectory


class Sizes(NamedTuple):
    """How much is collected, stored and learnt (static)."""

    num_envs: int
    chunk_length: int
    updates_per_chunk: int
    batch_size: int
    target_update_interval: int
    warmup_sequences: int
    capacity: int
    dtype: Any | None  # of stored observations and states; None: they are recomputed
    return_weight: float
    in_turn: bool  # members take their gradient steps one after the other, not as one batched product

    @property
    def warmup_iterations(self) -> int:
        """Iterations that only collect."""
        return -(-self.warmup_sequences // self.num_envs) - 1

    def grad_steps(self, iterations: Any) -> Any:
        """Gradient steps taken in the first `iterations` iterations."""
        return jnp.maximum(iterations - self.warmup_iterations, 0) * self.updates_per_chunk


class TrainState(NamedTuple):
    """One member's state; batched, every leaf has the leading member axis S."""

    learner: Learner
    replay: replays.Replay
    key: Array  # the member's base key; it never changes, iterations fold their number in


class Streams:
    """What is folded into a member's key for each purpose; iterations, numbers below 2^31, fold in their own."""

    LEARNER = 2**31  # initial parameters
    EVALUATION = 2**31 + 1  # evaluations in training
    AFTERWARDS = 2**31 + 2  # evaluations of what a run has learnt


def init(env: Env, algorithm: Algorithm, sizes: Sizes, seed: Array, hyper: Hyper) -> TrainState:
    """A fresh member from its seed (i32[])."""
    key = jax.random.key(seed)
    learner = algorithm.init(jax.random.fold_in(key, Streams.LEARNER), hyper)
    return TrainState(learner, replays.init(env, sizes.capacity, sizes.chunk_length, sizes.dtype), key)


def train_step(
    env: Env, algorithm: Algorithm, sizes: Sizes, state: TrainState, iteration: Array
) -> tuple[TrainState, Metrics]:
    """Collect one chunk with the current policy, store it, and take the gradient steps. iteration: i32[], unbatched."""
    k_rollout, k_learn = jax.random.split(jax.random.fold_in(state.key, iteration))
    env_steps = iteration * (sizes.num_envs * sizes.chunk_length)
    collected = collect(
        env,
        algorithm,
        state.learner,
        k_rollout,
        env_steps,
        num_envs=sizes.num_envs,
        length=sizes.chunk_length,
        keep=lambda env_states: env_states if sizes.dtype is None else (),
    )
    if sizes.dtype is None:
        assert env.compact is not None
        collected = collected._replace(kept=jax.vmap(jax.vmap(env.compact))(collected.kept))
    slot = (iteration * sizes.num_envs) % sizes.capacity
    replay = replays.write(state.replay, collected, slot)
    filled = jnp.minimum((iteration + 1) * sizes.num_envs, sizes.capacity)
    learner, metrics = _learn_when_ready(env, algorithm, sizes, state.learner, replay, k_learn, iteration, filled)
    outcomes = jax.tree.map(jnp.mean, shards.gathered(collected.outcomes))
    return TrainState(learner, replay, state.key), outcomes | metrics


def _learn_when_ready(
    env: Env,
    algorithm: Algorithm,
    sizes: Sizes,
    learner: Learner,
    replay: replays.Replay,
    key: Array,
    iteration: Array,
    filled: Array,
) -> tuple[Learner, Metrics]:
    """All gradient steps of an iteration and the mean of their metrics; before warm-up nothing, and NaN."""
    # Remembered once traced: for the shapes, and for the branch.
    remembered = jax.jit(partial(_learn, env, algorithm, sizes), inline=True)

    def learn(learner: Learner) -> tuple[Learner, Metrics]:
        return remembered(replay, key, iteration, filled, learner)

    metrics = jax.eval_shape(learn, learner)[1]
    nothing = {name: jnp.full(x.shape, jnp.nan, x.dtype) for name, x in metrics.items()}
    return jax.lax.cond(iteration >= sizes.warmup_iterations, learn, lambda same: (same, nothing), learner)


def _learn(
    env: Env,
    algorithm: Algorithm,
    sizes: Sizes,
    replay: replays.Replay,
    key: Array,
    iteration: Array,
    filled: Array,
    learner: Learner,
) -> tuple[Learner, Metrics]:
    env_steps = iteration * (sizes.num_envs * sizes.chunk_length)  # as acting saw them: one step of every schedule

    def update(learner: Learner, key: Array, rows: replays.Replay, step: Array) -> tuple[Learner, Metrics]:
        batch = with_shaping(replays.expand(env, rows), learner.hyper, step)
        return algorithm.update(learner, key, batch, step)

    update = in_turn(update) if sizes.in_turn else update

    def gradient_step(learner: Learner, xs: tuple[Array, Array]) -> tuple[Learner, Metrics]:
        key, count = xs
        k_sample, k_update = jax.random.split(key)
        rows = replays.sample(replay, k_sample, filled, sizes.batch_size, sizes.return_weight)
        learner, metrics = update(learner, k_update, rows, env_steps)
        due = count % sizes.target_update_interval == 0
        target = jax.lax.cond(due, lambda: learner.params, lambda: learner.target)
        return learner._replace(target=target), metrics

    counts = sizes.grad_steps(iteration) + 1 + jnp.arange(sizes.updates_per_chunk)
    keys = jax.random.split(key, sizes.updates_per_chunk)
    learner, metrics = jax.lax.scan(gradient_step, learner, (keys, counts))
    return learner, {name: jnp.mean(x) for name, x in metrics.items()}


def with_shaping(batch: Trajectory, hyper: Hyper, step: Array) -> Trajectory:
    """`batch` with its shaped rewards added, at a weight that falls linearly to zero; all of it at today's weight.

    Mixed here and not when it was collected: a replay full of earlier weights would pay for what no longer counts.
    """
    if batch.shaped_reward is None:
        return batch
    weight = policies.linear_schedule(hyper.shaping_start, jnp.float32(0.0), hyper.shaping_decay_steps, step)
    return batch._replace(reward=batch.reward + weight * batch.shaped_reward, shaped_reward=None)


def in_turn(update: Callable[..., Any]) -> Callable[..., Any]:
    """`update` of an Algorithm: under vmap, members take their steps one after the other, not as one product."""
    one = custom_vmap(update)
    one.def_vmap(partial(_in_turn, update))
    return one


def _in_turn(
    update: Callable[..., Any], members: int, batched: list[Any], learner: Learner, *args: Any
) -> tuple[tuple[Learner, Metrics], Any]:
    """The vmap rule of `in_turn`; `batched` marks the leaves with a member axis.

    All leaves of the learner have one; the step, last of `args`, has none.

    A member alone has to get the same bits as among others. XLA would inline a single turn and fuse it differently, so
    the number of turns, by way of the step (>= 0), is not a constant, and barriers part the turn from what is around.
    """
    turns = jnp.minimum(args[-1] + members, members)

    def of_member(i: Array | int, learner: Learner) -> Any:
        def pick(x: Array, has_members: bool) -> Array:
            return jax.lax.dynamic_index_in_dim(x, i, keepdims=False) if has_members else x

        return jax.tree.map(pick, (learner, *args), tuple(batched))

    def turn(i: Array, done: tuple[Learner, Metrics]) -> tuple[Learner, Metrics]:
        # Sliced once: else XLA slices it again within every operation that reads it.
        member = jax.lax.optimization_barrier(of_member(i, done[0]))
        new = jax.lax.optimization_barrier(update(*member))
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, i, 0), done, new)

    metrics = jax.eval_shape(lambda: update(*of_member(0, learner)))[1]
    empty = jax.tree.map(lambda x: jnp.zeros((members, *x.shape), x.dtype), metrics)
    done = jax.lax.fori_loop(0, turns, turn, (learner, empty))
    return done, jax.tree.map(lambda x: True, done)
