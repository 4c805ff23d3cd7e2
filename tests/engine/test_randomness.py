"""What is drawn anew for every agent, environment, row, gradient step and seed, and which step schedules see."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.engine import replay, train_step
from meigm_jax.engine.rollout import collect
from meigm_jax.types import Learner
from tests.engine.small import ACTIONS, AGENTS, COUNTING, ENV, HYPER, SIZES, SPEC, step

LEARNER = COUNTING.init(jax.random.key(0), HYPER)


def acting(of):
    """COUNTING, with actions i32[E, N] = of(carry, noise, env step)."""

    def act(learner, carry, at, noise, env_step, policy):
        return jnp.broadcast_to(of(carry, noise, env_step), at.avail.shape[:-1]).astype(jnp.int32), carry + 1

    return COUNTING._replace(act=act)


def collected(algorithm, env=ENV, env_step=0, **more):
    run = partial(collect, env, algorithm, num_envs=50, length=23, **more)
    return jax.tree.map(np.asarray, jax.jit(run)(LEARNER, jax.random.key(1), jnp.int32(env_step)))


def test_every_action_has_random_numbers_of_its_own():
    noise = collected(acting(lambda carry, noise, _: noise * 1e6)).trajectory.action
    assert len(np.unique(noise)) > 0.99 * noise.size and 0.48e6 < noise.mean() < 0.52e6


def test_every_step_of_every_environment_has_random_numbers_of_its_own():
    def noisy(key, state, action):
        return step(key, state._replace(tag=jax.random.uniform(key)), action)

    tags = collected(COUNTING, ENV._replace(step=noisy)).trajectory.at.state[..., 3]
    assert len(np.unique(tags)) > 0.99 * tags.size


def test_the_carry_goes_on_from_row_to_row_and_starts_anew_with_a_chunk():
    action = collected(acting(lambda carry, *_: carry[..., 0] % ACTIONS)).trajectory.action
    np.testing.assert_array_equal(action, np.broadcast_to(np.arange(23)[:, None, None] % ACTIONS, action.shape))


def test_acting_sees_the_env_steps_that_came_before_its_iteration():
    algorithm = acting(lambda carry, noise, env_step: env_step // 16 % ACTIONS)
    state = train_step.init(ENV, algorithm, SIZES, jnp.int32(0), HYPER)
    for i in range(3):
        state, _ = jax.jit(partial(train_step.train_step, ENV, algorithm, SIZES))(state, jnp.int32(i))
        np.testing.assert_array_equal(np.asarray(state.replay.action)[2 * i : 2 * i + 2], i)


def recording_init(key, hyper):
    """Parameters: the learner's key; then, gradient step by gradient step, its key and the rewards of its batch."""
    rows = {"own": jax.random.key_data(key), "keys": jnp.zeros((8, 2), jnp.uint32), "rewards": jnp.zeros((8, 24))}
    return Learner({"count": jnp.int32(0), **rows}, {"count": jnp.int32(0), **rows}, (), hyper)


def recording_update(learner, key, batch, env_step):
    assert batch.shaped_reward is None  # mixed into the reward before
    params, row = learner.params, learner.params["count"]
    params = params | {
        "count": row + 1,
        "keys": params["keys"].at[row].set(jax.random.key_data(key)),
        "rewards": params["rewards"].at[row].set(batch.reward.ravel()),
    }
    return learner._replace(params=params), {"count": jnp.float32(row)}


RECORDING = COUNTING._replace(init=recording_init, update=recording_update)


@pytest.fixture(scope="module")
def recorded():
    """Of two members: eight gradient steps in two iterations."""
    init = jax.vmap(partial(train_step.init, ENV, RECORDING, SIZES))
    state = init(jnp.arange(2), jax.tree.map(lambda x: jnp.stack([x, x]), HYPER))
    run = jax.jit(jax.vmap(partial(train_step.train_step, ENV, RECORDING, SIZES), in_axes=(0, None)))
    for i in range(2):
        state, _ = run(state, jnp.int32(i))
    return jax.tree.map(np.asarray, state.learner.params)


def test_every_seed_starts_with_parameters_of_its_own(recorded):
    assert len(np.unique(recorded["own"], axis=0)) == 2


def test_every_gradient_step_has_a_key_and_a_batch_of_its_own(recorded):
    np.testing.assert_array_equal(recorded["count"], 8)
    assert len(np.unique(recorded["keys"].reshape(-1, 2), axis=0)) == 16
    assert len(np.unique(recorded["rewards"].reshape(16, -1), axis=0)) > 12


@pytest.mark.parametrize("env_steps", [0, 16])  # before and after the weight has fallen to zero
def test_shaped_rewards_are_learnt_from_at_their_weight(env_steps):
    def shaped(key, state, action):
        *result, info = step(key, state, action)
        return *result, info | {"shaped_reward": result[2] * 10}

    env = ENV._replace(spec=SPEC._replace(shaped=True), step=shaped)
    hyper = HYPER._replace(shaping_start=jnp.float32(2), shaping_decay_steps=jnp.float32(16))
    state = train_step.init(env, RECORDING, SIZES, jnp.int32(0), hyper)
    run = jax.jit(partial(train_step.train_step, env, RECORDING, SIZES))
    plain = np.asarray(run(state, jnp.int32(0))[0].replay.reward)
    learner = run(state, jnp.int32(env_steps // 16))[0].learner
    found = np.asarray(learner.params["rewards"][:4])
    largest = found.max() / plain.max()
    assert largest == pytest.approx(21 if env_steps == 0 else 1, rel=0.3) and found.max() > 0


def test_what_is_recomputed_is_what_was_seen():
    """The replay that keeps states gives the rows back in their order, each with its own observation."""
    sizes = SIZES._replace(dtype=None)
    state = train_step.init(ENV, COUNTING, sizes, jnp.int32(0), HYPER)
    state, _ = jax.jit(partial(train_step.train_step, ENV, COUNTING, sizes))(state, jnp.int32(0))
    batch = replay.expand(ENV, replay.sample(state.replay, jax.random.key(0), jnp.int32(2), 6))
    t, first = np.asarray(batch.at.state[..., 0]), np.asarray(batch.at.first)
    np.testing.assert_array_equal(t == 0, first)
    assert first[0].all() and (np.diff(t, axis=0)[~first[1:]] == 1).all()
    np.testing.assert_array_equal(batch.at.obs[..., 0], np.broadcast_to(t[..., None], (*t.shape, AGENTS)))
