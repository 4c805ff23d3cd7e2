"""Chunks row by row on an environment whose every number is known; evaluation by the same rollout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.engine.evaluation import evaluate, watch
from meigm_jax.engine.rollout import Row, collect, first_episodes
from meigm_jax.ops import policies
from meigm_jax.types import Trajectory
from tests.engine.small import ACTIONS, COUNTING, ENV, HYPER, reward_of, time_step

ENVS, LENGTH = 6, 23


@pytest.fixture(scope="module")
def chunk():
    learner = COUNTING.init(jax.random.key(0), HYPER)
    run = jax.jit(partial(collect, ENV, COUNTING, num_envs=ENVS, length=LENGTH))
    return jax.tree.map(np.asarray, run(learner, jax.random.key(1), jnp.int32(0)))


def episodes_of(trajectory, e):
    """(first row, length, was cut by the chunk's end) of every episode of environment e, from the state alone."""
    starts = np.flatnonzero(trajectory.at.state[:, e, 0] == 0)
    lengths = trajectory.at.state[starts, e, 1].astype(int)
    return [(s, min(n, LENGTH - s), s + n > LENGTH) for s, n in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("e", range(ENVS))
def test_rows_are_episodes_each_followed_by_its_last_time_step(chunk, e):
    trajectory, *_ = chunk
    at, next_start = trajectory.at, 0
    for start, length, cut in episodes_of(trajectory, e):
        assert start == next_start
        rows = slice(start, start + length + 1)
        np.testing.assert_array_equal(at.state[rows, e, 0], np.arange(length + 1))  # the last time step included
        np.testing.assert_array_equal(at.obs[rows, e, :, 2], np.tile(at.state[start, e, 3], (length + 1, 2)))
        np.testing.assert_array_equal(at.first[rows, e], np.arange(length + 1) == 0)
        by_limit = at.state[start, e, 2] == 1
        at_end = (np.arange(length) == length - 1) & (not cut)
        np.testing.assert_array_equal(trajectory.valid[start : start + length, e], True)
        np.testing.assert_array_equal(trajectory.terminated[start : start + length, e], at_end & (not by_limit))
        np.testing.assert_array_equal(trajectory.truncated[start : start + length, e], at_end & by_limit)
        if start + length < LENGTH:
            row = start + length
            assert not (trajectory.valid[row, e] or trajectory.terminated[row, e] or trajectory.truncated[row, e])
            assert trajectory.reward[row, e] == 0
        next_start = start + length + 1
    assert next_start >= LENGTH


def test_there_are_ends_of_both_kinds_and_cut_episodes(chunk):
    trajectory, *_ = chunk
    assert trajectory.terminated.any() and trajectory.truncated.any()
    assert any(cut for e in range(ENVS) for *_, cut in episodes_of(trajectory, e))


def test_every_episode_is_a_new_one(chunk):
    trajectory, *_ = chunk
    tags = trajectory.at.state[..., 3][trajectory.at.first]
    assert len(tags) > 3 * ENVS and len(set(tags)) == len(tags)


def test_rewards_and_last_actions_belong_to_their_rows(chunk):
    trajectory, *_ = chunk
    expected = reward_of(trajectory.at.state[:-1, :, 0], trajectory.action) * trajectory.valid
    np.testing.assert_array_equal(trajectory.reward, expected)
    before = np.concatenate([np.full_like(trajectory.action[:1], -1), trajectory.action])
    expected = np.where(trajectory.at.first[..., None], -1, before)
    np.testing.assert_array_equal(trajectory.at.last_action, expected)


def test_actions_were_available(chunk):
    trajectory, *_ = chunk
    assert policies.take(trajectory.at.avail[:-1], trajectory.action).all()


def test_outcomes_are_those_of_every_first_episode(chunk):
    trajectory, outcomes, _ = chunk
    assert outcomes.keys() == {"return", "episode_length", "win"}
    for e in range(ENVS):
        length = int(trajectory.at.state[0, e, 1])
        assert outcomes["episode_length"][e] == length
        assert outcomes["return"][e] == trajectory.reward[:length, e].sum()
        assert outcomes["win"][e] == (trajectory.at.state[0, e, 3] > 0.5)


def test_the_return_of_a_member_does_not_depend_on_how_many_there_are():
    shape = (8, 128, 16)  # members, rows, environments
    reward, never = jax.random.normal(jax.random.key(0), shape), jnp.zeros(shape, bool)

    @jax.jit
    @jax.vmap
    def returns(reward, never):
        return first_episodes(Row(Trajectory(None, None, reward, never, never, ~never), {}))["return"]

    together = returns(reward, never)
    np.testing.assert_allclose(together, np.asarray(reward, np.float64).sum(axis=1), rtol=1e-4, atol=1e-4)
    for member in range(8):
        alone = returns(reward[member : member + 1], never[member : member + 1])
        np.testing.assert_array_equal(together[member], alone[0])


@pytest.mark.parametrize("policy", ["sampled", "greedy"])
def test_evaluation_gives_exactly_so_many_whole_episodes(policy):
    learner = COUNTING.init(jax.random.key(0), HYPER)
    run = jax.jit(partial(evaluate, ENV, COUNTING, episodes=7, num_envs=3, policy=policy))
    outcomes = run(learner, jax.random.key(2), jnp.int32(0))
    assert {name: x.shape for name, x in outcomes.items()} == dict.fromkeys(("return", "episode_length", "win"), (7,))
    length = np.asarray(outcomes["episode_length"])
    assert set(length) <= {3, 4, 5, 6} and len(set(length)) > 1
    floor = length * (length + 1) / 2  # reward 1 + t per step, and at most 2 agents x action 3 / 8 on top
    assert np.all(outcomes["return"] >= floor) and np.all(outcomes["return"] <= floor + 0.75 * length)
    assert set(np.asarray(outcomes["win"])) <= {0.0, 1.0}
    fewer = evaluate(ENV, COUNTING, learner, jax.random.key(2), jnp.int32(0), episodes=2, num_envs=3, policy=policy)
    assert fewer["return"].shape == (2,)


def test_the_watched_episode_is_the_one_that_evaluation_reports():
    @jax.jit
    def both(learner, key, step):
        reported = evaluate(ENV, COUNTING, learner, key, step, episodes=5, num_envs=5, policy="greedy")
        k_round = jax.random.split(key, 1)[0]
        return reported, watch(ENV, COUNTING, learner, k_round, step, num_envs=5, policy="greedy")

    learner = COUNTING.init(jax.random.key(0), HYPER)
    reported, (outcomes, states) = both(learner, jax.random.key(3), jnp.int32(0))
    for name, values in reported.items():
        np.testing.assert_array_equal(outcomes[name], values)
    length = int(reported["episode_length"][0])
    states = jax.tree.map(lambda x: x[: length + 1], states)
    np.testing.assert_array_equal(states.t, np.arange(length + 1))
    assert (states.length == length).all() and len(set(np.asarray(states.tag))) == 1
    assert reported["win"][0] == (states.tag[0] > 0.5)
    avail = jax.vmap(time_step)(states, jnp.zeros((length + 1, 2), jnp.int32)).avail
    first_available = policies.greedy(jnp.zeros((length + 1, 2, ACTIONS)), avail)
    assert reward_of(states.t, first_available)[:-1].sum() == reported["return"][0]
