"""QPLEX and Qatten by brute force: the joint value is largest at the greedy actions, over all that are available."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.mixers import MIXERS
from meigm_jax.ops import policies
from meigm_jax.types import EnvSpec, MixInput

AGENTS, ACTIONS, STATE, ROWS, CASES = 3, 4, 6, 8, 64
SPEC = EnvSpec("test", AGENTS, ACTIONS, 1, STATE, 1, 1, (), unit_dim=2)
JOINT = jnp.array(list(itertools.product(range(ACTIONS), repeat=AGENTS)))  # [A^N, N]


def joint_values(mixer, seed, scale):
    """Q_tot of all joint actions [A^N, R], -inf where one is unavailable, and of the greedy one [R]."""
    k_params, k_q, k_state, k_avail = jax.random.split(jax.random.key(seed), 4)
    params = jax.tree.map(lambda x: 3 * x, mixer.init(k_params))  # further from the origin than they start
    q = scale * jax.random.normal(k_q, (ROWS, AGENTS, ACTIONS))
    state = 2 * jax.random.normal(k_state, (ROWS, STATE))
    avail = jax.random.bernoulli(k_avail, 0.6, q.shape).at[..., 0].set(True)
    best = policies.greedy(q, avail)

    def value(action):
        action = jnp.broadcast_to(action, (ROWS, AGENTS))
        x = MixInput(policies.take(q, action), policies.take(q, best), action, state, avail.sum(-1) > 1, q)
        there = jnp.take_along_axis(avail, action[..., None], axis=-1).all(axis=(-1, -2))
        return jnp.where(there, mixer.apply(params, x), -jnp.inf)

    return jax.vmap(value)(JOINT), value(best)


@pytest.mark.parametrize("name", ["qplex", "qatten"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_the_greedy_actions_have_the_largest_joint_value(name, scale):
    mixer = MIXERS[name].load()(SPEC, **MIXERS[name].defaults())
    of = jax.jit(jax.vmap(lambda seed: joint_values(mixer, seed, scale)))
    every, at_greedy = of(jnp.arange(CASES))
    assert np.isfinite(at_greedy).all()
    np.testing.assert_allclose(np.max(every, axis=1), at_greedy, rtol=1e-4, atol=1e-4 * max(scale, 1.0))


def test_qplex_without_weights_by_hand():
    """Q_tot = sum q + sum (lambda - 1) (q - max q), and utilities learn as in VDN."""
    mixer = MIXERS["qplex"].load()(SPEC, hypernet_dim=4, num_kernels=1, kernel_dim=4, layers=1, weighted_head=False)
    params = jax.tree.map(jnp.zeros_like, mixer.init(jax.random.key(0)))
    params["params"]["key"]["bias_0"] = jnp.full((1, 1), -2.0)  # lambda = |-2| sigmoid(0)^2 = 0.5
    q, best = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 2.0, 5.0])
    action, alive = jnp.array([0, 1, 2]), jnp.ones(AGENTS, bool)

    def mix(q):
        return mixer.apply(params, MixInput(q, best, action, jnp.ones(STATE), alive, q[:, None]))

    np.testing.assert_allclose(mix(q), 6.0 - 0.5 * (-1.0 + 0.0 - 2.0), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(mix)(q), 1.0, rtol=1e-6)


def test_qatten_weighs_by_each_agents_own_part_of_the_state():
    options = MIXERS["qatten"].defaults() | {"weighted": False, "num_heads": 1}
    mixer = MIXERS["qatten"].load()(SPEC, **options)
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
