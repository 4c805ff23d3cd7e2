"""Interquartile mean, probability of improvement and their intervals: by hand, by counting, and as rliable has them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meigm_jax.report.statistics import improvement, interquartile_mean

X = np.array([[0.1, 3.0], [0.5, 4.0], [0.9, 2.0], [0.4, 8.0], [0.3, 5.0]])  # seeds x environments
Y = np.array([[0.2, 1.0], [0.5, 4.0], [0.8, 3.0], [0.1, 2.0]])


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean([np.array([9.0, 1.0, 2.0, -50.0])]).value == 1.5
    assert interquartile_mean([np.array([9.0, 1.0]), np.array([2.0, -50.0])]).value == 1.5
    assert interquartile_mean([np.array([1.0, 2.0, 6.0])]).value == 3.0


def test_a_seed_of_x_is_better_as_often_as_among_all_pairs():
    assert improvement([(np.array([1.0, 2.0]), np.array([0.0, 2.0]))]).value == (1 + 0 + 1 + 0.5) / 4
    assert improvement([(np.array([1.0]), np.array([0.0])), (np.array([1.0]), np.array([2.0]))]).value == 0.5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 3), min_size=1, max_size=4)] * 2), min_size=1, max_size=3))
def test_improvement_is_what_counting_gives(environments):
    counted = [np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(x, y)]) for x, y in environments]
    found = improvement([(np.array(x, float), np.array(y, float)) for x, y in environments])
    assert found.value == pytest.approx(np.mean(counted))
    few = any(len(scores) < 2 for pair in environments for scores in pair)
    assert np.isnan(found.low) == few and (few or 0 <= found.low <= found.high <= 1)


def test_seeds_are_drawn_within_their_environment():
    """Environments far apart, seeds alike: nothing is uncertain."""
    found = interquartile_mean([np.full(3, 1.0), np.full(3, 100.0)])
    assert (found.low, found.value, found.high) == (50.5, 50.5, 50.5)


def test_rliable_gives_the_same():
    """rliable 1.2.0 with pandas 2.3.3: 20000 resamples for the means, 10000 for the probability."""
    for scores, golden in ((X, (1.8, 1.283, 2.9)), (Y, (1.075, 0.675, 1.9))):
        found = interquartile_mean(list(scores.T))
        assert found.value == pytest.approx(golden[0])
        np.testing.assert_allclose(found[1:], golden[1:], atol=0.06)
    found = improvement(list(zip(X.T, Y.T, strict=True)))
    assert found.value == pytest.approx(0.6625)
    np.testing.assert_allclose(found[1:], (0.4, 0.9), atol=0.025)


def test_the_same_scores_give_the_same_interval():
    assert interquartile_mean(list(X.T)) == interquartile_mean(list(X.T))
