"""Evaluating what a run has learnt: which episodes, in which units, and intervals by hand."""

from __future__ import annotations

import numpy as np
import pytest

from meigm_jax.runs.episodes import Estimate, over_episodes, over_seeds, play
from meigm_jax.runs.restore import restore
from tests.runs.saved_run import save_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    payoff = "env.options.payoff=[[1,2,4],[8,16,32],[64,128,256]]"  # tells joint actions apart
    save_run(run_dir, "+env=matrix_game", payoff, "env.reward_scale=0.1", "evaluation.num_envs=4", best=1)
    return run_dir


@pytest.fixture(scope="module")
def played(run_dir):
    return play(restore(run_dir, None, "best", pytest.fail), 10, "sampled", seed=0)


def test_there_are_exactly_so_many_episodes_per_seed_in_the_environments_own_units(played):
    assert list(played.metrics) == ["return", "episode_length"]
    returns = played.metrics["return"]
    assert returns.shape == (2, 10)
    assert set(returns.ravel()) <= {float(2**k) for k in range(9)} and len(set(returns.ravel())) > 2
    assert (played.metrics["episode_length"] == 1).all()
    assert played.first_episode == [(), ()]  # the start and the end: the game's own states are empty


def test_the_first_episodes_are_the_same_for_every_number_and_for_a_seed_alone(run_dir, played):
    alone = play(restore(run_dir, 4, "best", pytest.fail), 5, "sampled", seed=0)
    np.testing.assert_array_equal(alone.metrics["return"], played.metrics["return"][1:, :5])
    assert (played.metrics["return"][0] != played.metrics["return"][1]).any()


def test_rounds_and_evaluation_seeds_have_episodes_of_their_own(run_dir, played):
    returns = played.metrics["return"]
    assert (returns[:, :4] != returns[:, 4:8]).any()
    other = play(restore(run_dir, None, "best", pytest.fail), 10, "sampled", seed=1)
    assert (other.metrics["return"] != returns).any()


def test_intervals_over_episodes_by_hand():
    wins = over_episodes("win_rate", np.array([1.0] * 8 + [0.0] * 2))
    # Wilson: (p + z^2 / 2n -+ z sqrt(p q / n + z^2 / 4 n^2)) / (1 + z^2 / n), z = 1.959964
    np.testing.assert_allclose(wins, (0.8, 0.490162, 0.943318), atol=1e-6)
    returns = over_episodes("return", np.array([1.0, 2.0, 3.0]))
    half = 4.302653 / np.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    np.testing.assert_allclose(returns, (2.0, 2.0 - half, 2.0 + half), rtol=1e-6)


def test_intervals_over_seeds_by_hand():
    half = 12.706205 * 0.1  # t(0.975, 1 degree of freedom) times the standard error
    np.testing.assert_allclose(over_seeds("return", np.array([0.8, 1.0])), (0.9, 0.9 - half, 0.9 + half), rtol=1e-6)
    assert over_seeds("win_rate", np.array([0.8, 1.0]))[1:] == (0.0, 1.0)  # a rate goes no further


def test_one_value_alone_has_no_interval():
    assert over_episodes("return", np.array([2.0])) == pytest.approx(Estimate(2.0, np.nan, np.nan), nan_ok=True)
    assert over_episodes("win_rate", np.array([1.0])).low == pytest.approx(0.206549, abs=1e-6)
