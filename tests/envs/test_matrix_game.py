"""The one-step matrix games."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax import envs
from meigm_jax.registry import ConfigError

TABLE_1 = np.array([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]])


@pytest.mark.parametrize("payoff", [TABLE_1, np.arange(8.0).reshape(2, 2, 2), np.array([[1.5, -2.0], [3.0, 4.0]])])
def test_the_reward_is_the_payoff_of_the_joint_action(payoff: np.ndarray) -> None:
    env = envs.make("matrix_game", payoff=payoff.tolist())
    assert (env.spec.num_agents, env.spec.num_actions) == (payoff.ndim, len(payoff))
    assert (env.spec.episode_limit, env.spec.min_episode_length) == (1, 1)
    joint = jnp.array(list(itertools.product(range(len(payoff)), repeat=payoff.ndim)), jnp.int32)
    keys = jax.random.split(jax.random.key(0), len(joint))
    env_state, start = jax.vmap(env.reset)(keys)
    _, after, reward, terminated, truncated, info = jax.vmap(env.step)(keys, env_state, joint)
    np.testing.assert_array_equal(reward.reshape(payoff.shape), payoff)
    assert terminated.all() and not truncated.any() and info == {}
    np.testing.assert_array_equal(after.last_action, joint)
    assert start.first.all() and not after.first.any() and (start.last_action == -1).all()
    for time_step in (start, after):
        assert time_step.obs.shape == (len(joint), payoff.ndim, 1) and time_step.state.shape == (len(joint), 1)
        assert (time_step.obs == 1).all() and (time_step.state == 1).all() and time_step.avail.all()


def test_the_default_is_table_1() -> None:
    for env in (envs.make("matrix_game"), envs.make("matrix_game", payoff=[])):
        rewards = [[env.step(jax.random.key(0), (), jnp.array([i, j]))[2] for j in range(3)] for i in range(3)]
        np.testing.assert_array_equal(rewards, TABLE_1)


@pytest.mark.parametrize(
    "payoff",
    [
        5,
        "abc",
        None,
        [1, 2],
        [[1, 2], [3]],
        [[1, 2, 3], [4, 5, 6]],
        [["1", "2"], ["3", "4"]],
        [[1, None], [2, 3]],
        [[True, False], [True, True]],
        [[1, float("nan")], [2, 3]],
        [[1, 1e39], [2, 3]],
        [[[1, 2], [3, 4]]],
        {"a": 1},
    ],
)
def test_a_wrong_payoff_is_a_configuration_error(payoff: Any) -> None:
    with pytest.raises(ConfigError, match=r"^env\.options\.payoff: expected .*") as error:
        envs.make("matrix_game", payoff=payoff)
    assert "\n" not in str(error.value)
