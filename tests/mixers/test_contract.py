"""What every mixer keeps to: shapes, IGM over all joint actions, monotonicity where it is claimed, finite gradients."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.mixers import MIXERS
from meigm_jax.ops import policies
from meigm_jax.types import EnvSpec, MixInput

AGENTS, ACTIONS, STATE, ROWS, CASES = 3, 4, 6, 8, 256  # CASES parameters and states, ROWS states each: 2048 in all
SPEC = EnvSpec("test", AGENTS, ACTIONS, 1, STATE, 1, 1, (), unit_dim=2)
JOINT = jnp.array(list(itertools.product(range(ACTIONS), repeat=AGENTS)))  # [A^N, N]
# Non-decreasing in every utility. QPLEX claims IGM alone: the advantage of one agent's action depends on all actions.
MONOTONE = {"vdn": True, "qmix": True, "qplex": False, "qatten": True}
VARIANTS = {  # name -> mixer, options
    **{name: (name, {}) for name in MIXERS},
    "qmix_mask_dead": ("qmix", {"mask_dead": True}),
    "qmix_one_layer": ("qmix", {"hypernet_layers": 1}),
    "qplex_unweighted": ("qplex", {"weighted_head": False, "layers": 1}),
    "qatten_unweighted": ("qatten", {"weighted": False}),
}
SCALES = (0.01, 1.0, 50.0)  # of utilities


@cache
def made(variant):
    name, options = VARIANTS[variant]
    return MIXERS[name].load()(SPEC, **MIXERS[name].defaults() | options)


def random_case(mixer, seed, scale):
    """Parameters further from the origin than they start, utilities, states and what is available; some agents have
    one action only, the last row has no other."""
    k_params, k_q, k_state, k_avail = jax.random.split(jax.random.key(seed), 4)
    params = jax.tree.map(lambda x: 3 * x, mixer.init(k_params))
    q = scale * jax.random.normal(k_q, (ROWS, AGENTS, ACTIONS))
    state = 2 * jax.random.normal(k_state, (ROWS, STATE))
    avail = jax.random.bernoulli(k_avail, 0.5, q.shape).at[-1].set(False).at[..., 0].set(True)
    return params, q, state, avail


def mix(mixer, params, q, state, avail, action):
    """Q_tot [...] of the joint action, of rows with any leading axes."""
    best = policies.take(q, policies.greedy(q, avail))
    alive = policies.has_choice(avail)
    return mixer.apply(params, MixInput(policies.take(q, action), best, action, state, alive, q))


def test_every_mixer_says_what_it_claims():
    assert MONOTONE.keys() == MIXERS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_greedy_actions_have_the_largest_joint_value_of_all_that_are_available(variant):
    """In float64: what is left of a difference is a difference."""
    mixer = made(variant)

    @jax.jit
    @jax.vmap
    def values(seed, scale):
        params, q, state, avail = random_case(mixer, seed, scale)

        def value(action):
            action = jnp.broadcast_to(action, (ROWS, AGENTS))
            there = jnp.take_along_axis(avail, action[..., None], axis=-1).all(axis=(-1, -2))
            return jnp.where(there, mix(mixer, params, q, state, avail, action), -jnp.inf)

        return jnp.max(jax.vmap(value)(JOINT), axis=0), value(policies.greedy(q, avail))

    with jax.enable_x64(True):
        largest, greedy = values(np.arange(CASES), np.resize(SCALES, CASES))
    assert greedy.dtype == np.float64 and np.isfinite(greedy).all()
    np.testing.assert_allclose(largest, greedy, rtol=1e-9, atol=1e-9)


@cache
def gradients_of(variant):
    """(seeds, scale) -> availability, and the gradients with respect to parameters, q_taken and q_max."""
    mixer = made(variant)

    def total(params, q_taken, q_max, state, avail, action):
        alive = policies.has_choice(avail)
        return jnp.sum(mixer.apply(params, MixInput(q_taken, q_max, action, state, alive, q_taken[..., None])))

    def gradients(seed, scale):
        params, q, state, avail = random_case(mixer, seed, scale)
        best = policies.greedy(q, avail)
        action = policies.boltzmann(jnp.zeros(q.shape), avail).sample(seed=jax.random.key(seed))
        q_taken, q_max = policies.take(q, action), policies.take(q, best)
        return avail, jax.grad(total, argnums=(0, 1, 2))(params, q_taken, q_max, state, avail, action)

    return jax.jit(jax.vmap(gradients, in_axes=(0, None)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_finite_and_reach_the_utilities_without_changing_sign_where_monotone(variant, scale):
    avail, (of_params, of_taken, of_max) = gradients_of(variant)(jnp.arange(16), scale)
    for leaf in jax.tree.leaves((of_params, of_taken, of_max)):
        assert np.isfinite(leaf).all()
    if MONOTONE[VARIANTS[variant][0]]:
        assert np.all(of_taken >= 0) and not np.any(of_max)
    masked = np.asarray(~policies.has_choice(avail)) & VARIANTS[variant][1].get("mask_dead", False)
    assert np.all((of_taken != 0)[~masked].mean() > 0.9) and not np.any(np.asarray(of_taken)[masked])


@pytest.mark.parametrize("variant", VARIANTS)
def test_leading_axes_are_rows_and_wrong_numbers_of_agents_are_refused(variant):
    mixer = made(variant)
    params, q, state, avail = random_case(mixer, 0, 1.0)
    action = policies.greedy(q, avail)
    rows = mix(mixer, params, q, state, avail, action)
    assert rows.shape == (ROWS,) and mix(mixer, params, q[0], state[0], avail[0], action[0]).shape == ()
    folded = [x.reshape(2, ROWS // 2, *x.shape[1:]) for x in (q, state, avail, action)]
    np.testing.assert_allclose(mix(mixer, params, *folded).ravel(), rows, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        mix(mixer, params, q[:, :2], state, avail[:, :2], action[:, :2])
