"""`meigm_jax.load` in other people's code: it acts as training does, from the bare environment's time steps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meigm_jax
from meigm_jax.config import steps_per_iteration
from meigm_jax.registry import ConfigError
from meigm_jax.runs.saved import read_config
from meigm_jax.runs.trainer import make_algorithm
from meigm_jax.types import TimeStep
from tests.runs.saved_run import save_run

REPOSITORY = Path(__file__).resolve().parents[1]
ENVS = 64


@pytest.fixture(scope="module")
def smax(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "smax"
    return run_dir, save_run(run_dir, "+env=smax_3m", "algo.agent.name=gru", newest=(2,), best=1)


@pytest.fixture(scope="module")
def policy(smax):
    return meigm_jax.load(smax[0], seed=4)


def time_step(spec, first: bool) -> TimeStep:
    """Random, with the large numbers of a bare world state."""
    k_obs, k_state, k_avail = jax.random.split(jax.random.key(first), 3)
    return TimeStep(
        obs=jax.random.uniform(k_obs, (ENVS, spec.num_agents, spec.obs_dim)),
        state=30 * jax.random.uniform(k_state, (ENVS, spec.state_dim)),
        avail=jax.random.bernoulli(k_avail, 0.5, (ENVS, spec.num_agents, spec.num_actions)).at[..., 0].set(True),
        first=jnp.full(ENVS, first),
        last_action=jnp.full((ENVS, spec.num_agents), -1 if first else 2),
    )


@pytest.mark.parametrize("greedy", [True, False])
def test_it_acts_as_training_does(smax, policy, greedy):
    run_dir, states = smax
    config, key = read_config(run_dir, "run"), jax.random.key(1)
    algorithm = make_algorithm(config, policy.env.spec)
    learner = jax.tree.map(lambda x: x[1], states["best"].learner)
    step = jnp.int32(policy.env_steps)
    carry, expected_carry = policy.init(ENVS), algorithm.init_carry(ENVS)
    for first in (True, False):
        at = time_step(policy.env.spec, first)
        expected, expected_carry = algorithm.act(
            learner, expected_carry, jax.vmap(policy.env.normalise)(at), key, step, "greedy" if greedy else "sampled"
        )
        actions, carry = policy.act(carry, at, key, greedy=greedy)
        np.testing.assert_array_equal(actions, expected)
        np.testing.assert_allclose(carry, expected_carry, atol=1e-6)
        assert len(set(np.asarray(actions).ravel())) > 3
    assert (policy.seed, policy.env_steps) == (4, steps_per_iteration(config))


def test_the_first_time_step_of_an_episode_clears_the_memory(policy):
    start, later = time_step(policy.env.spec, True), time_step(policy.env.spec, False)
    _, used = policy.act(policy.init(ENVS), later)
    np.testing.assert_array_equal(policy.act(used, start)[1], policy.act(policy.init(ENVS), start)[1])
    assert (policy.act(used, later)[1] != policy.act(policy.init(ENVS), later)[1]).any()


def test_sampling_needs_a_key_and_depends_on_it(policy):
    at, carry = time_step(policy.env.spec, True), policy.init(ENVS)
    one, again, other = (policy.act(carry, at, jax.random.key(k), greedy=False)[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert jnp.take_along_axis(at.avail, one[..., None], axis=-1).all()
    with pytest.raises(ValueError, match="key: a sampled action needs one"):
        policy.act(carry, at, greedy=False)


def test_seeds_and_checkpoints_have_policies_of_their_own(smax, policy):
    first, newest = meigm_jax.load(smax[0]), meigm_jax.load(str(smax[0]), seed=4, checkpoint="newest")
    assert (first.seed, newest.seed) == (3, 4)
    assert newest.env_steps == 2 * policy.env_steps
    at = time_step(policy.env.spec, True)
    carries = [each.act(each.init(ENVS), at)[1] for each in (policy, first, newest)]
    assert (carries[0] != carries[1]).any() and (carries[0] != carries[2]).any()


def test_wrong_use_is_one_clear_error(smax, tmp_path):
    with pytest.raises(ConfigError, match=r"run: .* is not a run directory"):
        meigm_jax.load(tmp_path)
    with pytest.raises(ConfigError, match=r"seed: .* has the seeds 3 to 4, got 0"):
        meigm_jax.load(smax[0], seed=0)


def test_the_package_is_imported_without_jax():
    code = "import sys, meigm_jax; print('jax' in sys.modules, callable(meigm_jax.load), hasattr(meigm_jax, 'lod'))"
    code += "; print(meigm_jax.envs.make('matrix_game').spec.num_agents)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout == "False True False\n2\n"


def test_the_example_in_the_readme_plays_a_batch_of_episodes(tmp_path, capsys):
    save_run(tmp_path / "run", "+env=matrix_game", best=1)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    [example] = [block for block in blocks if "meigm_jax.load" in block]
    example, count = re.subn(r'load\(".*?"', f'load("{tmp_path / "run"}"', example)
    assert count == 1
    exec(example, {})
    # Everybody acts alike and for certain: the mean over the batch is one entry of the payoff.
    assert float(capsys.readouterr().out.split()[-1]) in (8.0, -12.0, 0.0)
