"""Value decomposition's behaviour policy and temperature, on a small batch; what all rules keep to: test_contract."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.algos import value_decomposition as vd
from meigm_jax.ops import policies
from tests.algos.variants import ACTIONS, AGENTS, HYPER, make_algorithm, make_parts, random_batch

DRAWS = 2000


def test_alpha_falls_while_entropy_is_above_its_target_and_stays_within_bounds():
    algorithm, batch = make_algorithm("me_qmix"), random_batch()

    @jax.jit
    def train(key):
        def step(learner, key):
            return algorithm.update(learner, key, batch, jnp.int32(50))

        return jax.lax.scan(step, algorithm.init(key, HYPER), jax.random.split(key, 200))[1]

    metrics = train(jax.random.key(0))
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
    actions, carries = act(learner, carry, at, jax.random.split(jax.random.key(1), DRAWS), jnp.int32(0))
    assert actions.shape == (DRAWS, at.obs.shape[0], AGENTS) and carries.shape[1:] == carry.shape
    assert jnp.all(policies.take(jnp.broadcast_to(at.avail, (DRAWS, *at.avail.shape)), actions))
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
    draw = jax.jit(jax.vmap(lambda key: algorithm.act(learner, carry, at, key, jnp.int32(step), "sampled")[0]))
    actions = draw(jax.random.split(jax.random.key(2), 4000))
    q, _, _ = parts.agent.step(learner.params.agent, carry, at)
    if variant == "qmix":
        pi = policies.epsilon_greedy(q, at.avail, jnp.float32(0.1))
    else:
        pi = vd.local_policy(parts, learner.params.opt, jnp.float32(0.1), q, at)
    np.testing.assert_allclose(jax.nn.one_hot(actions, ACTIONS).mean(0), pi.probs, atol=0.04)


def test_mode_is_the_likeliest_action_where_order_is_lost():
    """The unconstrained network may rank actions otherwise than the utilities do: then mode is not greedy."""
    algorithm, parts, at = make_algorithm("mlp"), make_parts("mlp"), observations(random_batch(5))
    learner, carry = algorithm.init(jax.random.key(4), HYPER), algorithm.init_carry(at.obs.shape[0])
    mode, _ = algorithm.act(learner, carry, at, jax.random.key(0), jnp.int32(0), "mode")
    greedy, _ = algorithm.act(learner, carry, at, jax.random.key(0), jnp.int32(0), "greedy")
    q, _, _ = parts.agent.step(learner.params.agent, carry, at)
    pi = vd.local_policy(parts, learner.params.opt, jnp.float32(0.1), q, at)
    np.testing.assert_array_equal(mode, jnp.argmax(pi.probs, axis=-1))
    assert jnp.any(mode != greedy)
