"""Sequence replay: a ring of chunks, stored compactly, written and sampled inside the compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.types import Array, EnvSpec, TimeStep, Trajectory


class Replay(NamedTuple):
    """C sequences; leaves are sequence-major. What can be recomputed (last actions) is not stored."""

    obs: Array  # [C, T + 1, N, O] in the storage dtype
    state: Array  # [C, T + 1, G] in the storage dtype
    avail: Array  # bool[C, T + 1, N, A]
    first: Array  # bool[C, T + 1]
    action: Array  # i8 or i16 [C, T, N]
    reward: Array  # f32[C, T]
    terminated: Array  # bool[C, T]
    truncated: Array  # bool[C, T]
    valid: Array  # bool[C, T]
    shaped_reward: Array | None  # f32[C, T]; None where the environment shapes nothing


def init(spec: EnvSpec, capacity: int, length: int, dtype: Any) -> Replay:
    """An empty replay of `capacity` sequences with `length` transitions each."""
    agents, rows = spec.num_agents, length + 1
    flags = jnp.zeros((3, capacity, length), bool)
    return Replay(
        obs=jnp.zeros((capacity, rows, agents, spec.obs_dim), dtype),
        state=jnp.zeros((capacity, rows, spec.state_dim), dtype),
        avail=jnp.zeros((capacity, rows, agents, spec.num_actions), bool),
        first=jnp.zeros((capacity, rows), bool),
        action=jnp.zeros((capacity, length, agents), jnp.int8 if spec.num_actions < 128 else jnp.int16),
        reward=jnp.zeros((capacity, length)),
        terminated=flags[0],
        truncated=flags[1],
        valid=flags[2],
        shaped_reward=jnp.zeros((capacity, length)) if spec.shaped else None,
    )


def nbytes(spec: EnvSpec, capacity: int, length: int, dtype: Any) -> int:
    """Bytes of one member's replay, without allocating it."""
    shapes = jax.eval_shape(lambda: init(spec, capacity, length, dtype))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def write(replay: Replay, trajectory: Trajectory, slot: Array) -> Replay:
    """Put E sequences at slots slot .. slot + E - 1 (slot: i32[], unbatched: so this is a slice, not a scatter)."""
    at = trajectory.at
    new = Replay(at.obs, at.state, at.avail, at.first, *trajectory[1:])

    def put(ring: Array, x: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(ring, jnp.swapaxes(x, 0, 1).astype(ring.dtype), slot, axis=0)

    return jax.tree.map(put, replay, new)


def sample(replay: Replay, key: Array, filled: Array, batch_size: int, return_weight: float = 0.0) -> Trajectory:
    """`batch_size` sequences drawn with replacement from the first `filled` slots; [T, B, ...] leaves.

    Uniformly, or with probability proportional to exp(return_weight * scaled return of the sequence).
    """
    if return_weight:
        returns = jnp.sum(replay.reward * replay.valid, axis=1)
        used = jnp.arange(returns.shape[0]) < filled
        index = jax.random.categorical(key, jnp.where(used, return_weight * returns, -jnp.inf), shape=(batch_size,))
    else:
        index = jax.random.randint(key, (batch_size,), 0, filled)
    rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf[index], 0, 1), replay)
    action = rows.action.astype(jnp.int32)
    before = jnp.concatenate([jnp.full_like(action[:1], -1), action])
    last_action = jnp.where(rows.first[..., None], -1, before)
    at = TimeStep(rows.obs.astype(jnp.float32), rows.state.astype(jnp.float32), rows.avail, rows.first, last_action)
    return Trajectory(at, action, *rows[5:])
