"""Gradient steps and actions of every variant: losses fall, numbers stay finite, what is unavailable stays untaken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.algos import value_decomposition as vd
from meigm_jax.ops import policies
from tests.algos.variants import ACTIONS, AGENTS, HYPER, VARIANTS, make_algorithm, make_parts, random_batch

STEPS = 200


@pytest.fixture(scope="module")
def trained():
    """variant, reward scale -> learner before and after gradient steps on one fixed batch, and their metrics."""

    def of(variant):
        algorithm = make_algorithm(variant)

        @jax.jit
        def train(batch):
            def step(learner, key):
                return algorithm.update(learner, key, batch, jnp.int32(50))

            learner = algorithm.init(jax.random.key(0), HYPER)
            return learner, *jax.lax.scan(step, learner, jax.random.split(jax.random.key(1), STEPS))

        return train

    trains = {variant: of(variant) for variant in VARIANTS}
    return lambda variant, scale: trains[variant](random_batch(reward_scale=scale))


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_fall_on_a_fixed_batch(trained, variant):
    _, _, metrics = trained(variant, 1.0)
    falling = ["loss_td"] + ["loss_opt"] * (variant in ("me_vdn", "me_qmix"))
    for name in falling:
        assert metrics[name][-20:].mean() < 0.3 * metrics[name][:5].mean(), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reward_scale", [1e-3, 1e3])
def test_everything_stays_finite_at_any_reward_scale(trained, variant, reward_scale):
    _, learner, metrics = trained(variant, reward_scale)
    for leaf in jax.tree.leaves((learner.params, learner.optimizer_state, metrics)):
        assert jnp.all(jnp.isfinite(leaf))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_leaves_target_and_hypers_alone_and_reports_its_metrics(trained, variant):
    before, after, metrics = trained(variant, 1.0)
    for name in ("target", "hyper"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    names = {"loss_td", "q_tot_mean", "grad_norm"}
    if VARIANTS[variant][2] == "softmax":
        names |= {"loss_opt", "opt_error", "alpha", "entropy", "target_entropy", "misalignment"}
    else:
        names |= {"epsilon"}
        np.testing.assert_allclose(metrics["epsilon"], 0.55, rtol=1e-6)  # half way through the schedule
    assert metrics.keys() == names
    if variant in ("me_qmix", "me_vdn", "entropy"):
        np.testing.assert_array_equal(metrics["misalignment"], 0.0)


def test_alpha_falls_while_entropy_is_above_its_target_and_stays_within_bounds(trained):
    _, _, metrics = trained("me_qmix", 1.0)
    alpha, excess = np.asarray(metrics["alpha"], np.float64), np.asarray(metrics["entropy"] - metrics["target_entropy"])
    np.testing.assert_allclose(alpha[0], 0.1, rtol=1e-6)
    assert excess[0] > 0 and alpha[1] < alpha[0]
    assert np.all(alpha >= 0.999e-3) and np.all(alpha <= 1.0)


def observations(batch):
    return jax.tree.map(lambda x: x[0], batch.at)


@pytest.mark.parametrize("policy", ["sampled", "greedy"])
@pytest.mark.parametrize("variant", ["qmix", "me_qmix", "mlp"])
def test_actions_are_available_and_greedy_ones_maximise_raw_utilities(variant, policy):
    algorithm, parts, at = make_algorithm(variant), make_parts(variant), observations(random_batch())
    learner, carry = algorithm.init(jax.random.key(0), HYPER), algorithm.init_carry(at.obs.shape[0])
    act = jax.jit(jax.vmap(partial(algorithm.act, policy=policy), in_axes=(None, None, None, 0, None)))
    actions, carries = act(learner, carry, at, jax.random.split(jax.random.key(1), 200), jnp.int32(0))
    assert actions.shape == (200, at.obs.shape[0], AGENTS) and carries.shape[1:] == carry.shape
    assert jnp.all(policies.take(jnp.broadcast_to(at.avail, (200, *at.avail.shape)), actions))
    if policy == "greedy":
        q, _, _ = parts.agent.step(learner.params.agent, carry, at)
        best = np.where(at.avail, q, -np.inf).argmax(-1)
        np.testing.assert_array_equal(actions, np.broadcast_to(best, actions.shape))
    else:
        taken = jax.nn.one_hot(actions, ACTIONS).sum(0)
        assert jnp.all((taken > 0) == at.avail)  # alpha is high, and epsilon 1: all that is available comes up


@pytest.mark.parametrize(("variant", "step"), [("qmix", 10**6), ("me_qmix", 0)])
def test_behaviour_follows_its_distribution(variant, step):
    algorithm, parts, at = make_algorithm(variant), make_parts(variant), observations(random_batch(3))
    learner, carry = algorithm.init(jax.random.key(0), HYPER), algorithm.init_carry(at.obs.shape[0])
    draw = jax.jit(jax.vmap(lambda key: algorithm.act(learner, carry, at, key, jnp.int32(step), False)[0]))
    actions = draw(jax.random.split(jax.random.key(2), 4000))
    q, _, _ = parts.agent.step(learner.params.agent, carry, at)
    if variant == "qmix":
        pi = policies.epsilon_greedy(q, at.avail, jnp.float32(0.1))
    else:
        pi = vd.local_policy(parts, learner.params.opt, jnp.float32(0.1), q, at)
    np.testing.assert_allclose(jax.nn.one_hot(actions, ACTIONS).mean(0), pi.probs, atol=0.04)
