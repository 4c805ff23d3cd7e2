"""Sequence replay: a ring of chunks, stored compactly, written and sampled inside the compiled program.

Flags and available actions are bits, actions the smallest integers, last actions follow from them. Observations and
states are stored in a type of one's choice or, where the environment can, recomputed from what it keeps of its state.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.engine.rollout import Collected
from meigm_jax.ops import shards
from meigm_jax.types import Array, Env, TimeStep, Trajectory


class Stored(NamedTuple):
    """Observations and states as they are."""

    obs: Array  # [..., N, O] in the storage dtype
    state: Array  # [..., G] in the storage dtype


class Replay(NamedTuple):
    """C sequences; leaves are sequence-major."""

    seen: Any  # [C, T + 1, ...]: Stored, or what Env.compact keeps
    avail: Array  # u8[C, T + 1, bytes]: the bits of bool[N, A]
    flags: Array  # u8[C, T + 1]: the bits first, terminated, truncated, valid; the last three of the row's transition
    action: Array  # i8 or i16 [C, T, N]
    reward: Array  # f32[C, T]
    shaped_reward: Array | None  # f32[C, T]; None where the environment shapes nothing


def init(env: Env, capacity: int, length: int, dtype: Any | None) -> Replay:
    """An empty replay of `capacity` sequences with `length` transitions each; dtype None: what `env.compact` keeps."""
    spec, rows = env.spec, length + 1

    def of(*shape: int, dtype: Any = jnp.float32) -> Array:
        return jnp.zeros((capacity, *shape), dtype)

    if dtype is None:
        compact = env.compact
        assert compact is not None
        row = jax.eval_shape(lambda key: compact(env.reset(key)[0]), jax.random.key(0))
        seen = jax.tree.map(lambda x: of(rows, *x.shape, dtype=x.dtype), row)
    else:
        seen = Stored(of(rows, spec.num_agents, spec.obs_dim, dtype=dtype), of(rows, spec.state_dim, dtype=dtype))
    return Replay(
        seen,
        avail=of(rows, -(-spec.num_agents * spec.num_actions // 8), dtype=jnp.uint8),
        flags=of(rows, dtype=jnp.uint8),
        action=of(length, spec.num_agents, dtype=jnp.int8 if spec.num_actions < 128 else jnp.int16),
        reward=of(length),
        shaped_reward=of(length) if spec.shaped else None,
    )


def nbytes(env: Env, capacity: int, length: int, dtype: Any | None) -> int:
    """Bytes of one member's replay, without allocating it."""
    shapes = jax.eval_shape(lambda: init(env, capacity, length, dtype))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def write(replay: Replay, collected: Collected, slot: Array) -> Replay:
    """Put E sequences at slots slot .. slot + E - 1 (slot: i32[], unbatched: so this is a slice, not a scatter).

    `collected.kept` holds what `Env.compact` keeps, unless observations and states are stored.
    """
    trajectory, at = collected.trajectory, collected.trajectory.at
    seen = Stored(at.obs, at.state) if isinstance(replay.seen, Stored) else collected.kept
    avail = jnp.packbits(at.avail.reshape(*at.first.shape, -1), axis=-1)
    new = Replay(seen, avail, _flags(trajectory), trajectory.action, trajectory.reward, trajectory.shaped_reward)

    new = jax.tree.map(lambda ring, x: jnp.swapaxes(x, 0, 1).astype(ring.dtype), replay, new)
    put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=0)
    return jax.tree.map(put, replay, shards.gathered(new))


def sample(replay: Replay, key: Array, filled: Array, batch_size: int, return_weight: float = 0.0) -> Replay:
    """`batch_size` sequences drawn with replacement from the first `filled` slots, as stored; leaves [B, T, ...].

    Uniformly, or with probability proportional to exp(return_weight * scaled return of the sequence).
    """
    if return_weight:
        valid = _unpacked(replay.flags[:, :-1, None], 4)[..., 3]
        returns = jnp.sum(replay.reward * valid, axis=1)
        used = jnp.arange(returns.shape[0]) < filled
        index = jax.random.categorical(key, jnp.where(used, return_weight * returns, -jnp.inf), shape=(batch_size,))
    else:
        index = jax.random.randint(key, (batch_size,), 0, filled)
    return jax.tree.map(lambda leaf: leaf[shards.own(index)], replay)


def expand(env: Env, rows: Replay) -> Trajectory:
    """What was collected, of B stored sequences: leaves [T, B, ...]."""
    rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), rows)
    agents, actions = env.spec.num_agents, env.spec.num_actions
    first, terminated, truncated, valid = jnp.moveaxis(_unpacked(rows.flags[..., None], 4), -1, 0)
    avail = _unpacked(rows.avail, agents * actions).reshape(*first.shape, agents, actions)
    action = rows.action.astype(jnp.int32)
    before = jnp.concatenate([jnp.full_like(action[:1], -1), action])
    last_action = jnp.where(first[..., None], -1, before)
    if isinstance(rows.seen, Stored):
        obs, state = (x.astype(jnp.float32) for x in rows.seen)
    else:
        assert env.expand is not None
        obs, state = jax.vmap(jax.vmap(env.expand))(rows.seen)
    at = TimeStep(obs, state, avail, first, last_action)
    return Trajectory(at, action, rows.reward, terminated[:-1], truncated[:-1], valid[:-1], rows.shaped_reward)


def _flags(trajectory: Trajectory) -> Array:
    """u8[T + 1, E]."""
    beyond = jnp.zeros_like(trajectory.valid[:1])  # the last row starts no transition
    of_transitions = (trajectory.terminated, trajectory.truncated, trajectory.valid)
    flags = [trajectory.at.first, *(jnp.concatenate([flag, beyond]) for flag in of_transitions)]
    return jnp.packbits(jnp.stack(flags, axis=-1), axis=-1).squeeze(-1)


def _unpacked(packed: Array, count: int) -> Array:
    """bool[..., count] of u8[..., bytes]."""
    return jnp.unpackbits(packed, axis=-1, count=count).astype(bool)
