"""Shaped rewards: collected beside the reward, stored, and weighted by the step at which they are learnt from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.engine import replay
from meigm_jax.engine.rollout import collect
from meigm_jax.engine.train_step import with_shaping
from meigm_jax.envs.training import for_training
from tests.engine.small import COUNTING, ENV, HYPER, SPEC, step

ENVS, LENGTH = 2, 9
SHAPED = ENV._replace(
    spec=SPEC._replace(shaped=True),
    step=lambda key, state, action: (
        *(result := step(key, state, action))[:5],
        result[5] | {"shaped_reward": result[2] * 10},
    ),
)


@pytest.fixture(scope="module")
def collected():
    learner = COUNTING.init(jax.random.key(0), HYPER)
    env = for_training(SHAPED, reward_scale=0.5)
    return jax.jit(lambda: collect(env, COUNTING, learner, jax.random.key(1), jnp.int32(0), num_envs=2, length=9))()


def test_it_is_scaled_as_the_reward_and_counts_on_real_rows_alone(collected):
    trajectory = collected.trajectory
    np.testing.assert_allclose(trajectory.shaped_reward, 10 * trajectory.reward, rtol=1e-6)
    assert not trajectory.valid.all() and not trajectory.shaped_reward[~trajectory.valid].any()
    np.testing.assert_allclose(collected.outcomes["shaped_return"], 10 * collected.outcomes["return"], rtol=1e-6)


def test_the_replay_keeps_it_and_has_no_room_for_it_where_there_is_none(collected):
    ring = replay.write(replay.init(SHAPED, 4, LENGTH, jnp.float32), collected, jnp.int32(2))
    batch = replay.expand(SHAPED, replay.sample(ring, jax.random.key(0), jnp.int32(4), 32))
    assert batch.shaped_reward is not None
    np.testing.assert_allclose(batch.shaped_reward, 10 * batch.reward, rtol=1e-6)
    assert batch.shaped_reward.any()
    assert replay.init(ENV, 4, LENGTH, jnp.float32).shaped_reward is None
    difference = replay.nbytes(SHAPED, 4, LENGTH, jnp.float32) - replay.nbytes(ENV, 4, LENGTH, jnp.float32)
    assert difference == 4 * LENGTH * 4


@pytest.mark.parametrize(("env_step", "weight"), [(0, 2.0), (50, 1.0), (75, 0.5), (100, 0.0), (1000, 0.0)])
def test_its_weight_falls_to_zero(collected, env_step, weight):
    hyper = HYPER._replace(shaping_start=jnp.float32(2), shaping_decay_steps=jnp.float32(100))
    plain = collected.trajectory
    batch = with_shaping(plain, hyper, jnp.int32(env_step))
    np.testing.assert_allclose(batch.reward, plain.reward * (1 + 10 * weight), rtol=1e-6)
    assert batch.shaped_reward is None
    unshaped = plain._replace(shaped_reward=None)
    assert with_shaping(unshaped, hyper, jnp.int32(0)) is unshaped
