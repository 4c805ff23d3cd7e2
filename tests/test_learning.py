"""Whole runs learn: seconds on a game that is small enough to know what they must find."""

import pytest

from meigm_jax.runs.loop import run
from meigm_jax.train import configure

PAYOFF = "[[0,0,0],[0,2,3],[0,3,8]]"  # monotone, and no sum: a monotone mixer can represent it


@pytest.mark.parametrize("algo", ["me_qmix", "qmix"])
def test_every_seed_finds_the_best_joint_action(tmp_path, algo):
    """Worth 8, where a joint action at random is worth 16/9."""
    arguments = f"+env=matrix_game env.options.payoff={PAYOFF} algo={algo} seeds=4 total_env_steps=6400".split()
    config = configure(*arguments, f"run_dir={tmp_path / 'run'}", "log.progress=false")
    assert [member["final"]["greedy"]["return"] for member in run(config)["seeds"]] == [8.0] * 4
