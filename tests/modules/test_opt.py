"""Order-preserving transformations: they keep the order of utilities, mask the dead; the MLP does not keep it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meigm_jax.modules import opt
from meigm_jax.ops import policies
from meigm_jax.types import EnvSpec

SPEC = EnvSpec("test", num_agents=3, num_actions=6, obs_dim=1, state_dim=4, episode_limit=1, min_episode_length=1,
               outcomes=())  # fmt: skip
MAKERS = {
    "affine": lambda **options: opt.make_affine(SPEC, 8, **options),
    "two_layer": lambda **options: opt.make_two_layer(SPEC, 8, 4, residual=False, **options),
    "residual": lambda **options: opt.make_two_layer(SPEC, 8, 4, residual=True, **options),
    "mlp": lambda **options: opt.make_mlp(SPEC, 8, 4, **options),
}


def random_case(transform, key, q_scale=1.0, rows=32):
    """Parameters, utilities [R, N, A], states [R, G] and availability with at least one action."""
    k_params, k_q, k_state, k_avail = jax.random.split(key, 4)
    q = q_scale * jax.random.normal(k_q, (rows, SPEC.num_agents, SPEC.num_actions))
    state = 3 * jax.random.normal(k_state, (rows, SPEC.state_dim))
    avail = jax.random.bernoulli(k_avail, 0.6, q.shape).at[..., 1].set(True)
    return transform.init(k_params), q, state, avail


@pytest.fixture(scope="module")
def choices():
    """Per transformation: (key, scale of q, alpha) -> most probable and greedy actions."""

    def of(transform):
        @jax.jit
        def both(seed, q_scale, alpha):
            params, q, state, avail = random_case(transform, jax.random.key(seed), q_scale)
            logits = policies.mask(transform.apply(params, q, state, policies.has_choice(avail)) / alpha, avail)
            return policies.mode(logits, q, avail), policies.greedy(q, avail), jnp.max(logits, -1), logits

        return both

    transforms = {name: make(mask_dead=True) for name, make in MAKERS.items()} | {"identity": opt.make_identity(SPEC)}
    return {name: of(transform) for name, transform in transforms.items()}


@pytest.mark.parametrize("name", ["affine", "two_layer", "residual", "identity"])
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    q_scale=st.sampled_from([1e-3, 1.0, 1e2]),
    alpha=st.sampled_from([1e-3, 0.03, 1.0, 10.0]),
)
def test_the_most_probable_action_is_the_greedy_one(choices, name, seed, q_scale, alpha):
    likeliest, best, top, logits = choices[name](seed, q_scale, alpha)
    np.testing.assert_array_equal(likeliest, best)
    np.testing.assert_array_equal(policies.take(logits, best), top)


def test_the_mlp_can_turn_the_order_round(choices):
    likeliest, best, _, _ = choices["mlp"](0, 1.0, 1.0)
    assert np.mean(likeliest != best) > 0.05


@pytest.mark.parametrize("name", MAKERS)
def test_dead_agents_give_zero_and_no_gradient(name):
    transform = MAKERS[name](mask_dead=True)
    params, q, state, _ = random_case(transform, jax.random.key(3))
    alive = jnp.array([True, False, True])
    out, gradient = jax.value_and_grad(lambda q: jnp.sum(transform.apply(params, q, state, jnp.tile(alive, (32, 1)))))(
        q
    )
    assert jnp.isfinite(out)
    found = transform.apply(params, q, state, jnp.tile(alive, (32, 1)))
    assert not jnp.any(found[:, 1]) and jnp.any(found[:, 0])
    assert not jnp.any(gradient[:, 1]) and jnp.any(gradient[:, 0])
    unmasked = MAKERS[name](mask_dead=False)
    np.testing.assert_array_equal(unmasked.apply(params, q, state, jnp.tile(alive, (32, 1)))[:, 0], found[:, 0])
    assert jnp.any(unmasked.apply(params, q, state, jnp.tile(alive, (32, 1)))[:, 1])


@pytest.mark.parametrize("name", ["affine", "two_layer", "residual"])
def test_it_acts_on_each_action_alone_and_does_not_decrease(name):
    transform = MAKERS[name](mask_dead=True)
    params, q, state, _ = random_case(transform, jax.random.key(4))
    alive = jnp.ones(q.shape[:-1], bool)
    slope = jax.grad(lambda x: jnp.sum(transform.apply(params, x, state, alive)))(q)
    assert jnp.all(slope >= 0) and jnp.any(slope > 0)
    one = transform.apply(params, q[..., 2:3], state, alive)
    np.testing.assert_allclose(one[..., 0], transform.apply(params, q, state, alive)[..., 2], rtol=1e-5, atol=1e-6)


def test_wrong_shapes_are_refused():
    transform = MAKERS["affine"](mask_dead=True)
    params, q, state, _ = random_case(transform, jax.random.key(5))
    with pytest.raises(AssertionError):
        transform.apply(params, q[:, :2], state, jnp.ones((32, 2), bool))
