"""Collecting chunks of experience: environments vectorised by vmap, time by scan, auto-reset inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.ops import shards
from meigm_jax.types import Algorithm, Array, Env, Learner, Metrics, TimeStep, Trajectory


class Collected(NamedTuple):
    """A chunk of experience and what came of each environment's first episode in it."""

    trajectory: Trajectory  # [T + 1, E] and [T, E]
    outcomes: Metrics  # f32[E]: return, episode_length and spec.outcomes
    kept: Any  # what `keep` made of the env states of each time step, [T + 1]


class Running(NamedTuple):
    """What the scan over time carries; leaves have the axis E."""

    env_state: Any
    at: TimeStep
    carry: Any  # recurrent memory of the agents
    ended: Array  # bool[E]: `at` is an episode's last time step
    episode: Array  # i32[E]: how many episodes have ended


class Row(NamedTuple):
    """What one row of the scan leaves behind; after the scan, all T of them."""

    transition: Trajectory  # `at` has as many rows as the rest
    info: Metrics


def collect(
    env: Env,
    algorithm: Algorithm,
    learner: Learner,
    key: Array,
    step: Array,
    *,
    num_envs: int,
    length: int,
    policy: str = "sampled",
    pool_size: int | None = None,
    keep: Callable[[Any], Any] = lambda env_state: (),
) -> Collected:
    """`length` rows of `num_envs` environments, each starting at an episode start.

    Ended episodes go on in a state from a pool that is reset once per chunk (a reset inside every step would cost a
    third of SMAX's step). `pool_size` start states per environment suffice for the shortest episodes; when even more
    episodes end, the last one is used again. `step` is the env-step count that schedules see. `keep` says what to keep
    of the env states, whose leaves have the axis E. `num_envs` is of all shards of a member, E of the one.
    """
    if pool_size is None:
        pool_size = 1 + length // (env.spec.min_episode_length + 1)
    k_reset, k_rows = jax.random.split(key)
    pool = jax.vmap(jax.vmap(env.reset))(shards.own(jax.random.split(k_reset, (num_envs, pool_size))))
    env_state, at = jax.tree.map(lambda x: x[:, 0], pool)
    mine = at.first.shape[0]
    start = Running(env_state, at, algorithm.init_carry(mine), jnp.zeros(mine, bool), jnp.zeros(mine, jnp.int32))

    def row(running: Running, noise: tuple[Array, Any]) -> tuple[Running, tuple[Row, Any]]:
        after, row = _row(env, algorithm, learner, pool, pool_size, step, policy, running, *noise)
        return after, (row, keep(running.env_state))

    # One draw for all rows: inside the scan, random numbers take longer than the environments' steps.
    k_act, k_env = jax.random.split(k_rows)
    for_act = shards.uniform(k_act, (length, *at.avail.shape[:-1]), axis=1)
    for_env = jax.vmap(jax.vmap(env.draw))(shards.own(jax.random.split(k_env, (length, num_envs)), axis=1))
    last, (rows, kept) = jax.lax.scan(row, start, (for_act, for_env))
    trajectory = rows.transition._replace(at=_append(rows.transition.at, last.at))
    return Collected(trajectory, first_episodes(rows), _append(kept, keep(last.env_state)))


def _row(
    env: Env,
    algorithm: Algorithm,
    learner: Learner,
    pool: Any,
    pool_size: int,
    step: Array,
    policy: str,
    running: Running,
    for_act: Array,
    for_env: Any,
) -> tuple[Running, Row]:
    """Act, step every environment, and put a fresh start state where an episode's last row was just read."""
    num_envs = running.ended.shape[0]
    action, carry = algorithm.act(learner, running.carry, running.at, for_act, step, policy)
    env_state, at, reward, terminated, truncated, info = jax.vmap(env.step)(for_env, running.env_state, action)
    episode = running.episode + running.ended
    index = jnp.minimum(episode, pool_size - 1)
    fresh = jax.tree.map(lambda x: x[jnp.arange(num_envs), index], pool)
    env_state, at = jax.tree.map(lambda f, s: _where(running.ended, f, s), fresh, (env_state, at))
    valid = ~running.ended
    shaped = info.pop("shaped_reward") * valid if env.spec.shaped else None
    terminated, truncated = terminated & valid, truncated & valid
    row = Trajectory(running.at, action, reward * valid, terminated, truncated, valid, shaped)
    return Running(env_state, at, carry, terminated | truncated, episode), Row(row, info)


def first_episodes(rows: Row) -> Metrics:
    """Return, length and outcomes of each environment's first episode, f32[E]. Later, cut-off ones would bias them."""
    row = rows.transition
    first = jnp.cumprod(row.valid, axis=0).astype(bool)
    ended = (row.terminated | row.truncated) & first
    at_end = {name: jnp.sum(x * ended, axis=0) for name, x in rows.info.items()}
    length = jnp.sum(first, axis=0).astype(jnp.float32)
    sums = {"return": _in_order(row.reward * first), "episode_length": length}
    if row.shaped_reward is not None:
        sums["shaped_return"] = _in_order(row.shaped_reward * first)
    return sums | at_end


def _in_order(x: Array) -> Array:
    """[T, ...] summed over time, one row after the other: XLA's own order depends on how many members there are."""
    return jax.lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(x[0]), x)[0]


def _where(condition: Array, x: Array, y: Array) -> Array:
    """jnp.where with condition [E] against leaves [E, ...]."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - 1)), x, y)


def _append(rows: Any, last: Any) -> Any:
    """Leaves [T, ...] and [...] -> [T + 1, ...]."""
    return jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), rows, last)
