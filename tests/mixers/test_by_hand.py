"""Mixers by hand: the numbers of one row, and what reaches Q_tot."""

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.mixers import MIXERS as REGISTRY
from meigm_jax.mixers import qmix, vdn
from meigm_jax.types import EnvSpec, MixInput

AGENTS, ACTIONS, STATE, ROWS = 3, 4, 6, 8
SPEC = EnvSpec("test", AGENTS, ACTIONS, 1, STATE, 1, 1, (), unit_dim=2)
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


def test_qplex_without_weights_by_hand():
    """Q_tot = sum q + sum (lambda - 1) (q - max q), and utilities learn as in VDN."""
    mixer = REGISTRY["qplex"].load()(SPEC, hypernet_dim=4, num_kernels=1, kernel_dim=4, layers=1, weighted_head=False)
    params = jax.tree.map(jnp.zeros_like, mixer.init(jax.random.key(0)))
    params["params"]["key"]["bias_0"] = jnp.full((1, 1), -2.0)  # lambda = |-2| sigmoid(0)^2 = 0.5
    q, best = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 2.0, 5.0])
    action, alive = jnp.array([0, 1, 2]), jnp.ones(AGENTS, bool)

    def mix(q):
        return mixer.apply(params, MixInput(q, best, action, jnp.ones(STATE), alive, q[:, None]))

    np.testing.assert_allclose(mix(q), 6.0 - 0.5 * (-1.0 + 0.0 - 2.0), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(mix)(q), 1.0, rtol=1e-6)


def test_qatten_weighs_by_each_agents_own_part_of_the_state():
    options = REGISTRY["qatten"].defaults() | {"weighted": False, "num_heads": 1}
    mixer = REGISTRY["qatten"].load()(SPEC, **options)
    params = mixer.init(jax.random.key(1))
    q, action, alive = jnp.eye(AGENTS), jnp.zeros((AGENTS, AGENTS), jnp.int32), jnp.ones((AGENTS, AGENTS), bool)

    def weights(state):
        states = jnp.broadcast_to(state, (AGENTS, STATE))
        value = mixer.apply(params, MixInput(q, q, action, states, alive, q))
        nothing = mixer.apply(params, MixInput(0 * q, q, action, states, alive, q))
        return value - nothing

    same = weights(jnp.array([1.0, 2.0, 1.0, 2.0, 1.0, 2.0]))
    np.testing.assert_allclose(same, 1 / AGENTS, rtol=1e-5)
    other = weights(jnp.array([1.0, 2.0, 1.0, 2.0, 3.0, -2.0]))
    np.testing.assert_allclose(other[0], other[1], rtol=1e-5)
    np.testing.assert_allclose(other.sum(), 1.0, rtol=1e-5)
    assert abs(float(other[2] - other[0])) > 1e-4
