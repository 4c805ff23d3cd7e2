"""What is left of SMAX's state when it is stored: enough to see again exactly what was seen, in few bytes.

Numbers stay f32: with rounded positions a unit at the edge of sight would come and go.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from meigm_jax.envs import smax_fast
from meigm_jax.envs.quiet import quiet
from meigm_jax.types import Array

with quiet():
    from jaxmarl.environments.smax.smax_env import State


class Compact(NamedTuple):
    """One environment's units; 10 units take 182 bytes."""

    numbers: Array  # f32[U, 4]: x, y, health, cooldown (a medivac's energy)
    types: Array  # u8[U]
    orders: Array  # u8[U]: the last action: up, right, down, left, stop, then the attacks
    alive: Array  # u8[bytes]: the bits of bool[U]


def compact(smax: Any, state: Any) -> Compact:
    """What to keep of an SMAX state with up to 250 units."""
    moves = smax_fast.moves(smax)
    is_move = jnp.all(jnp.abs(state.prev_movement_actions[:, None] - moves) < 0.5, axis=-1)  # [U, 5]
    move = jnp.argmax(is_move, axis=-1)
    orders = jnp.where(state.prev_attack_actions > 0, state.prev_attack_actions, move)
    numbers = (state.unit_positions, state.unit_health[:, None], state.unit_weapon_cooldowns[:, None])
    return Compact(
        jnp.concatenate(numbers, axis=1),
        state.unit_types.astype(jnp.uint8),
        orders.astype(jnp.uint8),
        jnp.packbits(state.unit_alive),
    )


def expand(smax: Any, kept: Compact) -> State:
    """SMAX's state with everything that can be seen as it was; step count and end are not."""
    orders, moves = kept.orders.astype(jnp.int32), smax_fast.moves(smax)
    stop = len(moves) - 1
    movement = [smax_fast.of_type(jnp.minimum(orders, stop), column) for column in moves.T]
    return State(
        done=jnp.asarray(False),
        step=jnp.int32(0),
        unit_positions=kept.numbers[:, :2],
        unit_alive=jnp.unpackbits(kept.alive, count=len(orders)).astype(bool),
        unit_teams=(jnp.arange(len(orders)) >= smax.num_allies).astype(jnp.float32),
        unit_health=kept.numbers[:, 2],
        unit_types=kept.types,
        unit_weapon_cooldowns=kept.numbers[:, 3],
        prev_movement_actions=jnp.stack(movement, axis=-1),
        prev_attack_actions=jnp.where(orders > stop, orders, 0),
    )
