"""Masked policies: exact probabilities, nothing unavailable, finite entropies and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meigm_jax.ops import policies

ROWS, ACTIONS = 64, 5


def random_case(seed, scale=1.0):
    """q [R, A] and availability with at least one action each."""
    rng = np.random.default_rng(seed)
    avail = rng.random((ROWS, ACTIONS)) < 0.5
    avail[np.arange(ROWS), rng.integers(ACTIONS, size=ROWS)] = True
    return jnp.asarray(scale * rng.normal(size=(ROWS, ACTIONS)), jnp.float32), jnp.asarray(avail)


@jax.jit
def boltzmann(logits, avail):
    pi = policies.boltzmann(logits, avail)
    return pi.probs, pi.entropy()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 1.0, 30.0, 1e6]))
def test_boltzmann_is_the_softmax_over_available_actions(seed, scale):
    logits, avail = random_case(seed, scale)
    probs, entropy = (np.asarray(x) for x in boltzmann(logits, avail))
    assert not probs[~np.asarray(avail)].any()
    for row in range(ROWS):
        chosen = np.asarray(logits, float)[row][np.asarray(avail)[row]]
        weights = np.exp(chosen - chosen.max())
        expected = weights / weights.sum()
        np.testing.assert_allclose(probs[row][np.asarray(avail)[row]], expected, rtol=1e-4, atol=1e-6)
        nats = -np.sum(expected * np.log(np.maximum(expected, 1e-300)))
        np.testing.assert_allclose(entropy[row], nats, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("alpha", [1e-4, 1.0])
def test_entropy_with_one_action_is_zero_and_all_gradients_are_finite(alpha):
    q, avail = random_case(0)
    avail = avail.at[:8].set(jnp.arange(ACTIONS) == 2)
    entropy, gradient = jax.vmap(jax.value_and_grad(lambda q, m: policies.boltzmann(q / alpha, m).entropy()))(q, avail)
    assert jnp.all(jnp.isfinite(entropy)) and jnp.all(jnp.isfinite(gradient))
    np.testing.assert_array_equal(entropy[:8], 0.0)
    np.testing.assert_array_equal(gradient[:8], 0.0)


def test_where_nothing_is_available_the_policy_is_uniform():
    probs, entropy = boltzmann(jnp.arange(5.0), jnp.zeros(5, bool))
    np.testing.assert_allclose(probs, 0.2, rtol=1e-6)
    np.testing.assert_allclose(entropy, np.log(5), rtol=1e-6)


def test_greedy_takes_the_best_available_action_and_the_lowest_index_on_ties():
    q = jnp.array([[9.0, 2.0, 5.0], [1.0, 1.0, 1.0], [0.0, 3.0, 3.0], [-5.0, -1e8, 0.0]])
    avail = jnp.array([[False, True, True], [True, True, True], [True, True, True], [False, True, False]])
    np.testing.assert_array_equal(policies.greedy(q, avail), [2, 0, 1, 1])


def test_mode_is_the_most_probable_action_and_utilities_decide_ties():
    logits = jnp.array([[1.0, 1.0, 0.0], [1.0, 2.0, 5.0], [0.0, 0.0, 0.0]])
    q = jnp.array([[1.0, 1.5, 9.0], [9.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    avail = jnp.array([[True, True, True], [True, True, False], [True, True, True]])
    np.testing.assert_array_equal(policies.mode(logits, q, avail), [1, 1, 0])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_probabilities_are_exact(epsilon):
    q, avail = random_case(1)
    found = np.asarray(policies.epsilon_greedy(q, avail, jnp.float32(epsilon)).probs)
    expected = epsilon * np.asarray(avail) / np.asarray(avail).sum(-1, keepdims=True)
    expected[np.arange(ROWS), np.asarray(policies.greedy(q, avail))] += 1 - epsilon
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not found[~np.asarray(avail)].any()


@pytest.mark.parametrize("policy", ["boltzmann", "epsilon_greedy"])
def test_actions_are_sampled_by_their_probabilities_and_never_unavailable(policy):
    """For evenly spread noise each frequency is the probability itself, up to one in the number of draws."""
    q, avail = random_case(2)
    pi = policies.boltzmann(q, avail) if policy == "boltzmann" else policies.epsilon_greedy(q, avail, jnp.float32(1))
    draws = 512
    for noise in (np.arange(draws) / draws, np.full(draws, np.nextafter(np.float32(1), np.float32(0)))):
        spread = jnp.broadcast_to(noise.astype(np.float32).reshape(-1, *[1] * (q.ndim - 1)), (draws, *q.shape[:-1]))
        actions = jax.vmap(lambda u: policies.sample(pi, avail, u))(spread)
        assert jnp.all(jnp.take_along_axis(avail[None], actions[..., None], axis=-1))
        if noise[0] == 0:
            np.testing.assert_allclose(jax.nn.one_hot(actions, ACTIONS).mean(0), pi.probs, atol=1.5 / draws)


def test_linear_schedule_is_clipped_at_both_ends_and_takes_traced_arguments():
    steps = jnp.array([-5.0, 0.0, 25.0, 100.0, 1e9])
    found = jax.jit(policies.linear_schedule)(1.0, 0.2, 100.0, steps)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.8, 0.2, 0.2], rtol=1e-6)


def test_has_choice_and_take():
    avail = jnp.array([[True, False, True], [True, False, False], [False, False, False]])
    np.testing.assert_array_equal(policies.has_choice(avail), [True, False, False])
    np.testing.assert_array_equal(policies.take(jnp.arange(6.0).reshape(2, 3), jnp.array([2, 0])), [2.0, 3.0])


def test_a_sample_follows_the_policy_and_is_always_available():
    logits, avail = random_case(4, scale=2.0)
    logits = logits.at[0].set(0.0).at[1].set(jnp.array([0.0, -200.0, 0.0, 200.0, 0.0]))
    avail = avail.at[0].set(jnp.arange(ACTIONS) == ACTIONS - 1).at[1].set(True)
    pi = policies.boltzmann(logits, avail)
    draw = jax.jit(jax.vmap(lambda key: policies.sample(pi, avail, key)))
    actions = draw(jax.random.split(jax.random.key(1), 20_000))
    share = jax.nn.one_hot(actions, ACTIONS).mean(axis=0)
    assert not share[~avail].any() and (actions[:, 0] == ACTIONS - 1).all() and (actions[:, 1] == 3).all()
    spread = np.sqrt(pi.probs * (1 - pi.probs) / len(actions))
    np.testing.assert_array_less(np.abs(share - pi.probs), 5 * spread + 1e-5)


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-23])  # the least and the largest of jax.random.uniform
def test_a_sample_at_the_edge_of_the_distribution_is_available(number):
    logits, avail = random_case(9, scale=5.0)
    action = policies.sample(policies.boltzmann(logits, avail), avail, jnp.full(len(logits), number))
    assert policies.take(avail, action).all()
