"""Figure 2's gap by enumeration of joint actions: 0 wherever the OPT preserves order, not for the MLP."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meigm_jax.algos import me_igm
from meigm_jax.algos.common import mixed
from meigm_jax.ops import policies
from meigm_jax.types import TimeStep
from tests.algos.variants import ACTIONS, AGENTS, HYPER, OBS, STATE, soft_parts

ROWS = 16
JOINT = jnp.array(list(itertools.product(range(ACTIONS), repeat=AGENTS)))  # [A^N, N]


def time_steps(key):
    k_state, k_avail = jax.random.split(key)
    avail = jax.random.bernoulli(k_avail, 0.6, (ROWS, AGENTS, ACTIONS)).at[..., 2].set(True)
    state = 2 * jax.random.normal(k_state, (ROWS, STATE))
    nobody = jnp.full((ROWS, AGENTS), -1)
    return TimeStep(jnp.zeros((ROWS, AGENTS, OBS)), state, avail, jnp.zeros(ROWS, bool), nobody)


@pytest.fixture(scope="module")
def gaps():
    """Per variant: seed, scale of q, alpha -> the gap by enumeration and as the metric computes it, [R] each."""

    def of(variant):
        parts = soft_parts(variant)

        @jax.jit
        def both(seed, q_scale, alpha):
            k_params, k_q, k_at = jax.random.split(jax.random.key(seed), 3)
            network, at = me_igm.init(parts, k_params, HYPER).params, time_steps(k_at)
            q = q_scale * jax.random.normal(k_q, (ROWS, AGENTS, ACTIONS))
            features = jnp.zeros((ROWS, AGENTS, 1))
            logits = me_igm.local_policy(parts, network.opt, alpha, q, at).logits
            likeliest = policies.mode(logits, q, at.avail)

            def q_tot(action):
                return mixed(parts.mixer, network.mixer, q, features, action, at)

            every = jax.vmap(lambda a: q_tot(jnp.broadcast_to(a, (ROWS, AGENTS))))(JOINT)
            possible = jnp.all(
                policies.take(at.avail[None], jnp.broadcast_to(JOINT[:, None], (*every.shape, AGENTS))), -1
            )
            best = jnp.max(jnp.where(possible, every, -jnp.inf), axis=0)
            index = jnp.argmax(jnp.all(JOINT[:, None] == likeliest, axis=-1), axis=0)
            chosen = jnp.take_along_axis(every, index[None], axis=0).squeeze(0)
            return best - chosen, me_igm.misalignment(parts, network, alpha, q, features, at)

        return both

    return {variant: of(variant) for variant in ("me_qmix", "me_vdn", "entropy", "mlp")}


@pytest.mark.parametrize("variant", ["me_qmix", "me_vdn", "entropy"])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    q_scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    alpha=st.sampled_from([1e-3, 0.03, 1.0, 10.0]),
)
def test_the_most_probable_joint_action_is_the_best_one(gaps, variant, seed, q_scale, alpha):
    by_enumeration, metric = gaps[variant](seed, q_scale, alpha)
    np.testing.assert_array_equal(metric, 0.0)
    np.testing.assert_array_equal(by_enumeration, 0.0)


def test_without_order_preservation_the_gap_opens_and_the_metric_measures_it(gaps):
    by_enumeration, metric = gaps["mlp"](0, 1.0, 0.1)
    np.testing.assert_allclose(metric, by_enumeration, rtol=1e-4, atol=1e-5)
    assert np.mean(np.asarray(metric) > 0.01) > 0.3
