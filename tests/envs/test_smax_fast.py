"""The fast SMAX step against JaxMARL's, step by step; `experiments/smax_equality.py` does every scenario."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax import envs
from meigm_jax.envs.smax_fast import batch_minor


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("smax_5m_vs_6m", {"walls_cause_death": False, "see_enemy_actions": False, "max_steps": 20}),
        ("smax_5v5", {}),
        ("smax_protoss_5v5", {}),
        ("smax_terran_10v11", {}),
        ("smax_zerg_5v5", {}),
    ],
)
def test_equals_jaxmarl_step_by_step(experiment, name: str, options: dict[str, Any]) -> None:
    found = experiment("smax_equality").compare(name, 16, 64, **options)
    assert found["beyond_tolerance"] == 0 and found["unequal_flags"] == 0
    assert found["episodes"] >= 4  # fights were fought to their end


def test_batching_does_not_change_a_game() -> None:
    env = envs.make("smax_terran_5v5")
    keys = jax.random.split(jax.random.key(0), 6)
    actions = jax.random.randint(jax.random.key(1), (6, 20, env.spec.num_agents), 0, env.spec.num_actions)

    def play(key: jax.Array, actions: jax.Array) -> Any:
        def step(env_state: Any, inputs: Any) -> tuple[Any, Any]:
            env_state, time_step, reward, *_ = env.step(*inputs[:1], env_state, inputs[1])
            return env_state, (time_step.obs, reward)

        return jax.lax.scan(step, env.reset(key)[0], (jax.random.split(key, 20), actions))

    one = jax.jit(jax.vmap(play))(keys, actions)
    nested = jax.jit(jax.vmap(jax.vmap(play)))(keys.reshape(2, 3), actions.reshape(2, 3, *actions.shape[1:]))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(nested), strict=True):
        np.testing.assert_array_equal(x, y.reshape(x.shape))


def test_batch_minor_puts_every_vmap_into_the_last_axis() -> None:
    shapes = []

    def add(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        shapes.append((x.shape, y.shape))
        return x + y.sum(0), y

    x, y = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(20.0).reshape(4, 5)
    minor = batch_minor(add)
    # x: [2, 3] of vectors [4]; y: [4] of vectors [5], the same for the outer axis, another for each entry of x.
    inner = jax.vmap(minor, in_axes=(0, 0))
    found, same = jax.vmap(jax.vmap(inner, in_axes=(0, None)), in_axes=(0, None))(x, y)
    np.testing.assert_array_equal(found, x + y.sum(1))
    np.testing.assert_array_equal(same, jnp.broadcast_to(y, (2, 3, 4, 5)))
    assert shapes[-1] == ((24,), (5, 24))
