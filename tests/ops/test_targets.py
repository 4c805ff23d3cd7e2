"""(Soft) TD(lambda) targets against the mixture of k-step returns, episode by episode, and against hand numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meigm_jax.ops.targets import lambda_returns, masked_mean
from tests.ops.forward_view import lambda_mixture

ROWS, SEQUENCES = 13, 5
returns = jax.jit(lambda_returns)


def random_layout(rng):
    """valid and terminal [T, B], and per sequence its episodes (start, length, terminated), as the engine packs them.

    Every ended episode is followed by its last time step's own row; the last episode may be cut by the sequence's end.
    """
    valid = np.zeros((ROWS, SEQUENCES), bool)
    terminal = np.zeros((ROWS, SEQUENCES), bool)
    episodes = []
    for b in range(SEQUENCES):
        start = 0
        while start < ROWS:
            length = int(rng.integers(1, 7))
            ends = start + length <= ROWS
            length = min(length, ROWS - start)
            terminated = ends and bool(rng.integers(2))  # else truncated, or cut
            valid[start : start + length, b] = True
            terminal[start + length - 1, b] = terminated
            episodes.append((b, start, length, terminated))
            start += length + 1
    return valid, terminal, episodes


def random_numbers(rng):
    return (rng.normal(size=(rows, SEQUENCES)).astype(np.float32) for rows in (ROWS, ROWS + 1, ROWS + 1))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    gamma=st.floats(0, 1, width=32),
    td_lambda=st.sampled_from([0.0, 0.4, 0.93, 1.0]) | st.floats(0, 1, width=32),
)
def test_every_episode_has_the_targets_of_its_own_k_step_returns(seed, gamma, td_lambda):
    rng = np.random.default_rng(seed)
    valid, terminal, episodes = random_layout(rng)
    reward, value, bonus = random_numbers(rng)
    targets = returns(reward, value, bonus, terminal, valid, gamma, td_lambda)
    expected = np.zeros((ROWS, SEQUENCES))
    for b, start, length, terminated in episodes:
        rows, after = slice(start, start + length), slice(start, start + length + 1)
        expected[rows, b] = lambda_mixture(
            reward[rows, b], value[after, b], bonus[after, b], terminated, gamma, td_lambda
        )
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), content=st.sampled_from([1e30, -7.0, float("nan")]))
def test_rows_between_episodes_and_after_terminal_steps_do_not_matter(seed, content):
    rng = np.random.default_rng(seed)
    valid, terminal, _ = random_layout(rng)
    valid[ROWS - 4 :, 0] = terminal[ROWS - 4 :, 0] = False  # padding to the end
    reward, value, bonus = random_numbers(rng)
    before = returns(reward, value, bonus, terminal, valid, 0.99, 0.6)
    read = np.concatenate([np.zeros((1, SEQUENCES), bool), valid & ~terminal])  # rows that a transition bootstraps from
    reward = np.where(valid, reward, content).astype(np.float32)
    value, bonus = (np.where(read, x, content).astype(np.float32) for x in (value, bonus))
    after = returns(reward, value, bonus, terminal, valid, 0.99, 0.6)
    np.testing.assert_array_equal(after, before)
    assert not np.any(np.asarray(after)[~valid])


def one_episode(terminated):
    """Three transitions with hand-made numbers: reward, value, bonus, terminal, valid as columns."""
    reward = np.array([[1.0], [2.0], [4.0]])
    value = np.array([[100.0], [10.0], [20.0], [40.0]])
    bonus = np.array([[1000.0], [0.5], [0.25], [8.0]])
    return reward, value, bonus, np.array([[False], [False], [terminated]]), np.ones((3, 1), bool)


@pytest.mark.parametrize(
    ("terminated", "td_lambda", "expected"),
    [
        # lambda 0: r + gamma (v' + bonus')
        (False, 0.0, [1 + 0.5 * 10.5, 2 + 0.5 * 20.25, 4 + 0.5 * 48]),
        (True, 0.0, [1 + 0.5 * 10.5, 2 + 0.5 * 20.25, 4]),
        # lambda 1: discounted rewards and bonuses, and the last value unless the end is terminal
        (False, 1.0, [1 + 0.5 * (0.5 + 2 + 0.5 * (0.25 + 28)), 2 + 0.5 * (0.25 + 28), 28]),
        (True, 1.0, [1 + 0.5 * (0.5 + 2 + 0.5 * (0.25 + 4)), 2 + 0.5 * (0.25 + 4), 4]),
        # lambda 1/2 from the end: 4; 2 + (20 + 4) / 4 + 0.125 = 8.125; 1 + (10 + 8.125) / 4 + 0.25
        (True, 0.5, [5.78125, 8.125, 4]),
    ],
)
def test_hand_numbers_and_closed_forms(terminated, td_lambda, expected):
    found = lambda_returns(*(jnp.asarray(x) for x in one_episode(terminated)), 0.5, td_lambda)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_without_bonus_it_is_plain_td_lambda():
    reward, value, bonus, terminal, valid = one_episode(terminated=True)
    found = lambda_returns(*(jnp.asarray(x) for x in (reward, value, 0 * bonus, terminal, valid)), 0.9, 0.3)
    expected, later = [], 0.0  # G = r + gamma [(1 - lambda) v' + lambda G'], backwards from the terminal step
    for r, v in ((4, 0), (2, 20), (1, 10)):
        later = r + 0.9 * (0.7 * v + 0.3 * later)
        expected.insert(0, later)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_masked_mean_ignores_what_is_masked_and_is_zero_of_nothing():
    x = jnp.array([1.0, jnp.nan, 3.0])
    assert masked_mean(x, jnp.array([True, False, True])) == 2.0
    assert masked_mean(x, jnp.zeros(3, bool)) == 0.0


def test_shapes_that_do_not_fit_are_refused():
    reward, value, bonus, terminal, valid = one_episode(terminated=True)
    with pytest.raises(AssertionError):
        lambda_returns(reward, value[1:], bonus[1:], terminal, valid, 0.9, 0.3)
