"""Mixers by brute force: monotone in every utility, IGM over all joint actions, VDN is the sum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meigm_jax.mixers import qmix, vdn
from meigm_jax.ops import policies
from meigm_jax.types import EnvSpec, MixInput

AGENTS, ACTIONS, STATE, ROWS = 3, 4, 5, 8
SPEC = EnvSpec("test", AGENTS, ACTIONS, 1, STATE, 1, 1, ())
JOINT = jnp.array(list(itertools.product(range(ACTIONS), repeat=AGENTS)))  # [A^N, N]
MIXERS = {
    "vdn": vdn.make(SPEC),
    "qmix": qmix.make(SPEC, embed_dim=6, hypernet_dim=8, value_dim=8, mask_dead=False),
    "qmix_mask_dead": qmix.make(SPEC, embed_dim=6, hypernet_dim=8, value_dim=6, mask_dead=True),
}


def mix(mixer, params, q_taken, state, alive=None):
    alive = jnp.ones(q_taken.shape, bool) if alive is None else alive
    return mixer.apply(params, MixInput(q_taken, q_taken, q_taken.astype(int), state, alive, q_taken[..., None]))


def random_case(mixer, seed, scale):
    k_params, k_q, k_state = jax.random.split(jax.random.key(seed), 3)
    q = scale * jax.random.normal(k_q, (ROWS, AGENTS, ACTIONS))
    return mixer.init(k_params), q, 2 * jax.random.normal(k_state, (ROWS, STATE))


@pytest.fixture(scope="module", params=MIXERS)
def values(request):
    """seed, scale of q -> Q_tot of all joint actions [A^N, R], at the greedy one [R], and slopes in q [R, N]."""
    mixer = MIXERS[request.param]

    @jax.jit
    def of(seed, scale):
        params, q, state = random_case(mixer, seed, scale)
        every = jax.vmap(
            lambda a: mix(mixer, params, policies.take(q, jnp.broadcast_to(a, (ROWS, AGENTS))), state)
        )(JOINT)  # fmt: skip
        best = policies.take(q, policies.greedy(q, jnp.ones(q.shape, bool)))
        slopes = jax.grad(lambda x: jnp.sum(mix(mixer, params, x, state)))(q[..., 0])
        return every, mix(mixer, params, best, state), slopes

    return of


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([0.01, 1.0, 50.0]))
def test_q_tot_does_not_decrease_in_any_utility_and_is_largest_at_the_greedy_actions(values, seed, scale):
    every, at_greedy, slopes = values(seed, scale)
    assert jnp.all(slopes >= 0) and jnp.any(slopes > 0)
    np.testing.assert_allclose(jnp.max(every, axis=0), at_greedy, rtol=1e-6, atol=1e-6)


def test_vdn_is_the_sum_of_utilities():
    params, q, state = random_case(MIXERS["vdn"], 0, 1.0)
    np.testing.assert_allclose(mix(MIXERS["vdn"], params, q[..., 0], state), np.asarray(q[..., 0]).sum(-1), rtol=1e-5)


def test_qmix_by_hand_for_one_row():
    mixer = MIXERS["qmix"]
    params, q, state = random_case(mixer, 1, 1.0)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    q, s = np.asarray(q[0, :, 0], np.float64), np.asarray(state[0], np.float64)

    def hypernet(name):
        hidden = np.maximum(s @ p[name]["hidden"]["kernel"] + p[name]["hidden"]["bias"], 0)
        return hidden @ p[name]["out"]["kernel"] + p[name]["out"]["bias"]

    x = q @ np.abs(hypernet("w1")).reshape(AGENTS, 6) + s @ p["b1"]["kernel"] + p["b1"]["bias"]
    expected = np.where(x > 0, x, np.expm1(x)) @ np.abs(hypernet("w2")) + hypernet("b2")[0]
    np.testing.assert_allclose(mix(mixer, params, jnp.asarray(q[None], jnp.float32), state[:1])[0], expected, rtol=1e-5)


def test_masked_dead_agents_do_not_reach_q_tot():
    mixer = MIXERS["qmix_mask_dead"]
    params, q, state = random_case(mixer, 2, 1.0)
    alive = jnp.broadcast_to(jnp.array([True, False, True]), (ROWS, AGENTS))
    gradient = jax.grad(lambda x: jnp.sum(mix(mixer, params, x, state, alive)))(q[..., 0])
    assert not jnp.any(gradient[:, 1]) and jnp.all(jnp.any(gradient != 0, axis=0) == jnp.array([True, False, True]))
    changed = q[..., 0].at[:, 1].add(100.0)
    np.testing.assert_array_equal(
        mix(mixer, params, changed, state, alive), mix(mixer, params, q[..., 0], state, alive)
    )


@pytest.mark.parametrize("name", MIXERS)
def test_wrong_numbers_of_agents_are_refused(name):
    params, q, state = random_case(MIXERS[name], 0, 1.0)
    with pytest.raises(AssertionError):
        mix(MIXERS[name], params, q[:, :2, 0], state)
