"""TD(lambda) and soft TD(lambda) targets over sequences that hold several episodes."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from meigm_jax.ops import shards
from meigm_jax.types import Array


def lambda_returns(
    reward: Array,
    value: Array,
    bonus: Array,
    terminal: Array,
    valid: Array,
    gamma: Array | float,
    td_lambda: Array | float,
) -> Array:
    """Soft TD(lambda) targets; with a zero bonus, plain TD(lambda).

    G_t = r_t + gamma (1 - terminal_t) [(1 - lambda) v_{t+1} + lambda G_{t+1} + bonus_{t+1}], where G restarts as v at
    an episode's last time step and at the end of the sequence. The entropy bonus enters once per step, inside gamma and
    inside (1 - terminal), and is not scaled by lambda. Derived from eq. (12) of arXiv 2406.13930, whose released code
    lets the bonus leak past terminal states; this recursion does not.

    Args:
        reward: f32[T, ...] of the transition from row t to row t + 1.
        value: f32[T + 1, ...], the bootstrap value of every row.
        bonus: f32[T + 1, ...], alpha times the joint policy entropy (nats) of every row.
        terminal: bool[T, ...], no bootstrapping beyond this transition.
        valid: bool[T, ...], the row is a real transition; False on an episode's last time step and on padding.
        gamma: discount per step, scalar.
        td_lambda: mixing of k-step returns, scalar in [0, 1].

    Returns:
        f32[T, ...], zero where not valid.
    """
    chex.assert_equal_shape([reward, terminal, valid])
    chex.assert_equal_shape([value, bonus])
    chex.assert_equal_shape([reward, value[1:]])
    goes_on = jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])  # row t + 1 is part of the same episode

    def backward(later: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        reward_t, next_value, next_bonus, terminal_t, next_goes_on = row
        later = jnp.where(next_goes_on, later, next_value)
        ahead = (1.0 - td_lambda) * next_value + td_lambda * later + next_bonus
        target = reward_t + gamma * jnp.where(terminal_t, 0.0, ahead)
        return target, target

    rows = (reward, value[1:], bonus[1:], terminal, goes_on)
    # A step is next to no work, less than going around the loop once more: sixteen at a time.
    _, targets = jax.lax.scan(backward, value[-1], rows, reverse=True, unroll=16)
    return jnp.where(valid, targets, 0.0)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x where mask holds, 0 where it holds nowhere; of a split member's batch: over all its shards."""
    return shards.total(jnp.sum(jnp.where(mask, x, 0.0))) / jnp.maximum(shards.total(jnp.sum(mask)), 1)
