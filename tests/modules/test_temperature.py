"""Temperatures: bounds, direction of the learned step, its target, and the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.modules import temperature
from meigm_jax.types import EnvSpec, Hyper

SPEC = EnvSpec("test", num_agents=4, num_actions=2, obs_dim=1, state_dim=1, episode_limit=1, min_episode_length=1,
               outcomes=())  # fmt: skip
HYPER = Hyper(*(jnp.float32(0) for _ in Hyper._fields))._replace(
    alpha_start=jnp.float32(0.5),
    alpha_end=jnp.float32(0.01),
    alpha_decay_steps=jnp.float32(100),
    alpha_min=jnp.float32(0.02),
    alpha_max=jnp.float32(2.0),
    target_entropy=jnp.float32(0.24),
)


@pytest.fixture
def learned():
    return temperature.make_learned(SPEC, "alive")


@pytest.mark.parametrize(("excess", "sign"), [(3.0, -1), (-0.5, 1)])
def test_entropy_above_its_target_lowers_alpha_and_below_raises_it(learned, excess, sign):
    params = learned.init(HYPER)
    gradient = jax.grad(learned.loss)(params, jnp.float32(excess))
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    before, after = (learned.alpha(p, HYPER, jnp.int32(0)) for p in (params, stepped))
    np.testing.assert_allclose(before, 0.5, rtol=1e-6)
    np.testing.assert_allclose(jnp.log(after / before), -0.1 * excess, rtol=1e-5)
    assert jnp.sign(after - before) == sign


def test_the_loss_sends_no_gradient_to_the_entropy(learned):
    assert jax.grad(learned.loss, argnums=1)(learned.init(HYPER), jnp.float32(2.0)) == 0


@pytest.mark.parametrize(("log_alpha", "bound"), [(-50.0, 0.02), (50.0, 2.0)])
def test_learned_alpha_is_brought_back_between_floor_and_cap(learned, log_alpha, bound):
    projected = learned.project({"log_alpha": jnp.float32(log_alpha)}, HYPER)
    np.testing.assert_allclose(learned.alpha(projected, HYPER, jnp.int32(0)), bound, rtol=1e-6)
    inside = {"log_alpha": jnp.float32(-1.0)}
    assert learned.project(inside, HYPER)["log_alpha"] == -1.0


@pytest.mark.parametrize(("start", "bound"), [(1e-9, 0.02), (1e9, 2.0)])
@pytest.mark.parametrize("make", [temperature.make_fixed, temperature.make_schedule, None])
def test_every_temperature_starts_between_floor_and_cap(make, start, bound):
    made = make(SPEC) if make else temperature.make_learned(SPEC, "team")
    hyper = HYPER._replace(alpha_start=jnp.float32(start))
    np.testing.assert_allclose(made.alpha(made.init(hyper), hyper, jnp.int32(0)), bound, rtol=1e-6)


def test_the_target_counts_the_agents_with_a_choice_or_the_whole_team(learned):
    alive = jnp.array([[True, True, True, True], [True, False, False, True], [False, False, False, False]])
    np.testing.assert_allclose(learned.target(HYPER, alive), [0.96, 0.48, 0.0], rtol=1e-6)
    team = temperature.make_learned(SPEC, "team")
    np.testing.assert_allclose(team.target(HYPER, alive), [0.96, 0.96, 0.96], rtol=1e-6)


def test_the_schedule_is_linear_in_env_steps_and_stops_at_the_floor():
    made = temperature.make_schedule(SPEC)
    found = [made.alpha({}, HYPER, jnp.int32(step)) for step in (0, 50, 100, 10**6)]
    np.testing.assert_allclose(found, [0.5, 0.255, 0.02, 0.02], rtol=1e-5)


def test_a_fixed_temperature_stays():
    made = temperature.make_fixed(SPEC)
    np.testing.assert_allclose([made.alpha({}, HYPER, jnp.int32(step)) for step in (0, 10**6)], 0.5)
