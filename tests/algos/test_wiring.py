"""Every rule's parts, options and networks reach what they are for: one algorithm of each rule, and its options."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meigm_jax.algos import me_igm, qtran, quantile_mixture, soft_qmix, value_decomposition, weighted_qmix
from meigm_jax.algos.common import mixed
from meigm_jax.mixers import vdn
from meigm_jax.modules import opt, temperature
from meigm_jax.ops import policies
from meigm_jax.runs.trainer import make_algorithm as of_config
from meigm_jax.types import Mixer
from tests.algos.test_contract import composed
from tests.algos.variants import ACTIONS, AGENTS, GRU, HYPER, MIXERS, SPEC, random_batch, soft_parts
from tests.algos.variants import make_algorithm as make_variant

ONE_OF_EACH_RULE = ["me_qmix", "qmix", "soft_qmix_code", "cw_qmix", "qtran", "dmix", "iql"]


def leaves_equal(x, y):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def update(algorithm, learner, batch, key=0, step=50):
    return jax.jit(algorithm.update)(learner, jax.random.key(key), batch, jnp.int32(step))


@pytest.fixture(scope="module", params=ONE_OF_EACH_RULE)
def rule(request):
    """An algorithm, its learner with a target of its own, and one more learner."""
    _, algorithm, hyper = composed(request.param)
    fresh, other = (jax.jit(algorithm.init)(jax.random.key(seed), hyper) for seed in (0, 1))
    return algorithm, fresh, fresh._replace(target=jax.tree.map(lambda x: x + 0.5, other.params))


def test_the_target_starts_as_the_parameters(rule):
    _, fresh, _ = rule
    assert leaves_equal(fresh.params, fresh.target) and jax.tree.leaves(fresh.params)


def test_the_target_network_gives_targets_and_no_actions(rule):
    algorithm, fresh, changed = rule
    batch = random_batch()
    losses = [update(algorithm, learner, batch)[1]["loss_td"] for learner in (fresh, changed)]
    assert abs(losses[0] - losses[1]) > 1e-6
    at = jax.tree.map(lambda x: x[0], batch.at)
    noise = jax.random.uniform(jax.random.key(3), (50, *at.avail.shape[:-1]))
    for policy in ("greedy", "sampled", "mode"):
        act = jax.jit(jax.vmap(partial(algorithm.act, policy=policy), in_axes=(None, None, None, 0, None)))
        acted = [act(learner, algorithm.init_carry(4), at, noise, jnp.int32(10**6)) for learner in (fresh, changed)]
        assert leaves_equal(*acted)


@pytest.mark.parametrize("name", ONE_OF_EACH_RULE)
def test_a_timeout_is_a_terminal_state_unless_the_configuration_says_otherwise(name):
    config, _, hyper = composed(name)
    batch = random_batch()
    ended = batch._replace(terminated=batch.terminated | batch.truncated, truncated=jnp.zeros_like(batch.truncated))
    losses = {}
    for bootstrap in (False, True):
        env = replace(config.env, bootstrap_on_timeout=bootstrap)
        algorithm = of_config(replace(config, env=env), SPEC._replace(unit_dim=2))
        learner = jax.jit(algorithm.init)(jax.random.key(0), hyper._replace(td_lambda=jnp.float32(0.4)))
        losses[bootstrap] = [float(update(algorithm, learner, each)[1]["loss_td"]) for each in (batch, ended)]
    assert losses[False][0] == losses[False][1] == losses[True][1] != losses[True][0]


def test_a_rule_of_one_loss_takes_clipped_adam_steps_on_all_of_its_parameters():
    with jax.enable_x64(True):
        hyper = HYPER._replace(learning_rate=2e-3, opt_learning_rate=5e-1, max_grad_norm=1.0)
        algorithm, parts = make_variant("qmix"), value_decomposition.Parts(GRU, MIXERS["qmix"], False)
        wide = partial(jax.tree.map, lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x)
        start, other = (algorithm.init(jax.random.key(seed), jax.tree.map(jnp.float64, hyper)) for seed in (0, 1))
        learner = start = start._replace(target=other.params)
        params, adam = start.params, optax.adam(2e-3)
        state, norms = adam.init(params), []
        for seed, scale in ((0, 3.0), (1, 0.01), (2, 10.0)):
            batch, key = wide(random_batch(seed, scale)), jax.random.key(seed)
            gradient = jax.grad(
                lambda x, batch=batch, key=key: value_decomposition.loss(
                    parts, start.hyper, start.target, batch, key, x
                )[0]
            )(params)
            norms.append(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))))
            scaled = jax.tree.map(lambda g: g * min(1.0, 1.0 / norms[-1]), gradient)
            changes, state = adam.update(scaled, state)
            params = optax.apply_updates(params, changes)
            learner, metrics = algorithm.update(learner, key, batch, jnp.int32(50))
            np.testing.assert_allclose(metrics["grad_norm"], norms[-1], rtol=1e-9)
    assert min(norms) < 1.0 < max(norms)
    for found, right in zip(jax.tree.leaves(learner.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-12)


def test_a_scheduled_temperature_is_that_of_the_step():
    parts = soft_parts("me_qmix")._replace(temperature=temperature.make_schedule(SPEC))
    algorithm = me_igm.algorithm(parts)
    learner = algorithm.init(jax.random.key(0), HYPER)
    for step, expected in ((0, 0.1), (50, 0.055), (1000, 0.01)):
        _, metrics = update(algorithm, learner, random_batch(), step=step)
        np.testing.assert_allclose(metrics["alpha"], expected, rtol=1e-5)


@pytest.mark.parametrize(("target", "bound"), [(0.0, "alpha_min"), (100.0, "alpha_max")])
def test_a_learned_temperature_stops_at_its_bounds(target, bound):
    algorithm = make_variant("me_qmix")
    hyper = HYPER._replace(alpha_learning_rate=jnp.float32(50.0), target_entropy=jnp.float32(target))
    learner, _ = update(algorithm, algorithm.init(jax.random.key(0), hyper), random_batch())
    np.testing.assert_allclose(jnp.exp(learner.params.temperature["log_alpha"]), getattr(HYPER, bound), rtol=1e-5)


def test_next_actions_are_samples_that_agents_draw_independently():
    parts = soft_parts("entropy")
    at = jax.tree.map(lambda x: jnp.repeat(x[:1], 4000, axis=0), random_batch().at)
    at = at._replace(avail=jnp.ones_like(at.avail))
    q = jnp.broadcast_to(jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1])), (*at.avail.shape[:-1], ACTIONS))
    action = np.asarray(me_igm.choose_next(parts, {}, jnp.float32(1.0), at, jax.random.key(0), q).action)
    shares = [[(action[..., i] == a).mean() for a in range(ACTIONS)] for i in range(AGENTS)]
    np.testing.assert_allclose(shares, [[0.4, 0.3, 0.2, 0.1]] * AGENTS, atol=0.02)
    for i in range(1, AGENTS):  # 0.16 + 0.09 + 0.04 + 0.01
        np.testing.assert_allclose((action[..., 0] == action[..., i]).mean(), 0.3, atol=0.02)


def test_the_opt_of_a_dead_agent_is_no_part_of_the_regression():
    parts, batch = soft_parts("me_qmix"), random_batch()
    params = parts.opt.init(jax.random.key(0))
    alive = np.asarray(policies.has_choice(batch.at.avail[:-1]))
    q_taken = jax.random.normal(jax.random.key(1), alive.shape)
    q_tot = jax.random.normal(jax.random.key(2), alive.shape[:-1])
    unmasked = opt.make_affine(SPEC, 8, mask_dead=False)
    f = unmasked.apply(params, q_taken[..., None], batch.at.state[:-1], jnp.ones(alive.shape, bool)).squeeze(-1)
    expected = np.sum(np.asarray(f) * alive, axis=-1) - np.asarray(q_tot)
    _, error = me_igm.opt_loss(parts, params, q_taken, q_tot, batch)
    assert not alive.all()
    np.testing.assert_allclose(error, expected, rtol=1e-4, atol=1e-5)


def test_the_opts_error_is_a_mean_of_sizes():
    batch, algorithm = random_batch(), make_variant("me_vdn")
    learner = algorithm.init(jax.random.key(0), HYPER)
    q, _ = GRU.unroll(learner.params.agent, batch.at)
    q_taken = policies.take(q[:-1], batch.action)
    _, error = me_igm.opt_loss(soft_parts("me_vdn"), learner.params.opt, q_taken, jnp.sum(q_taken, axis=-1), batch)
    error = np.asarray(error)[np.asarray(batch.valid)]
    assert error.min() < 0
    np.testing.assert_allclose(update(algorithm, learner, batch)[1]["opt_error"], np.abs(error).mean(), rtol=1e-5)


def test_a_mixer_is_told_who_is_alive_and_what_is_best():
    told = []
    mixer = Mixer(lambda key: {}, lambda params, x: told.append(x) or jnp.sum(x.q_taken, axis=-1))
    batch = random_batch()
    q = jax.random.normal(jax.random.key(0), batch.at.avail[:-1].shape)
    at = jax.tree.map(lambda x: x[:-1], batch.at)
    mixed(mixer, {}, q, jnp.zeros((*q.shape[:-1], 2)), batch.action, at)
    [x] = told
    avail = np.asarray(at.avail)
    np.testing.assert_array_equal(x.alive, avail.sum(-1) > 1)
    np.testing.assert_array_equal(x.q_max, np.where(avail, q, -np.inf).max(-1))
    np.testing.assert_array_equal(
        x.q_taken, np.take_along_axis(np.asarray(q), np.asarray(x.action)[..., None], -1)[..., 0]
    )
    np.testing.assert_array_equal(x.state, at.state)


def loss_of(algorithm, hyper=HYPER):
    learner = algorithm.init(jax.random.key(0), hyper)
    learner = learner._replace(target=algorithm.init(jax.random.key(1), hyper).params)
    return learner, update(algorithm, learner, random_batch(), key=2)[1]


@pytest.mark.parametrize("optimistic", [False, True])
def test_the_weighting_of_weighted_qmix_is_the_one_that_is_named(optimistic):
    made = weighted_qmix.make(SPEC, GRU, vdn.make(SPEC), False, ("central", "optimistic")[optimistic], 0.1, 8)
    learner, metrics = loss_of(made)
    parts = weighted_qmix.Parts(GRU, vdn.make(SPEC), weighted_qmix.Central(8), optimistic, 0.1, False)
    args = HYPER, learner.target, random_batch(), jax.random.key(2), learner.params
    expected, opposite = (weighted_qmix.loss(p, *args)[1] for p in (parts, parts._replace(optimistic=not optimistic)))
    np.testing.assert_allclose(metrics["td_weight"], expected["td_weight"], rtol=1e-5)
    assert abs(expected["td_weight"] - opposite["td_weight"]) > 1e-3


def test_each_loss_of_qtran_has_its_own_weight():
    norms = {}
    for weights in ((0.0, 0.0), (3.0, 0.0), (0.0, 3.0)):
        made = qtran.make(SPEC, GRU, False, "features", 3, 8, *weights)
        learner, metrics = loss_of(made)
        parts = qtran.Parts(GRU, qtran.Joint(ACTIONS, 8, 3, "features"), *weights, False)
        loss = partial(qtran.loss, parts, HYPER, learner.target, random_batch(), jax.random.key(2))
        gradient = jax.grad(loss, has_aux=True)(learner.params)[0]
        norms[weights] = float(metrics["grad_norm"])
        np.testing.assert_allclose(norms[weights], optax.tree.norm(gradient), rtol=1e-4)
    assert len({round(x, 3) for x in norms.values()}) == 3


def test_soft_qmix_halves_weights_when_asked():
    parts = soft_parts("me_vdn")
    losses = []
    for half in (False, True):
        made = soft_qmix.make(
            SPEC, parts.agent, parts.mixer, parts.opt, parts.temperature, False, "sampled", 8, 4, half_weights=half
        )
        losses.append(float(loss_of(made)[1]["loss_td"]))
    assert abs(losses[0] - losses[1]) > 1e-5


def quantile_parts(double_q=False):
    return quantile_mixture.Parts(GRU, vdn.make(SPEC), quantile_mixture.Embedding(16, 8), 4, 4, double_q, False)


def quantile_network(seed):
    made = quantile_mixture.make(SPEC, GRU, vdn.make(SPEC), False, 4, 4, 16, 16, False)
    return made.init(jax.random.key(seed), HYPER).params


def test_online_and_target_quantiles_have_fractions_of_their_own(monkeypatch):
    seen = []
    monkeypatch.setattr(
        quantile_mixture, "loss_at", lambda parts, hyper, target, batch, u, target_u, x: seen.extend((u, target_u))
    )
    network = quantile_network(0)
    quantile_mixture.loss(quantile_parts(), HYPER, network, random_batch(), jax.random.key(0), network)
    u, target_u = (np.asarray(x) for x in seen)
    assert (
        len(np.unique(np.concatenate([u, target_u]))) > 0.99 * 2 * u.size and 0.4 < u.mean() < 0.6 and u.shape[-1] == 4
    )


@pytest.mark.parametrize("double_q", [False, True])
def test_in_double_q_the_online_means_choose(double_q):
    batch, target = random_batch(), quantile_network(1)
    u = jax.random.uniform(jax.random.key(2), (*batch.at.first.shape, 4))
    online = jax.random.normal(jax.random.key(3), batch.at.avail.shape)
    _, features = GRU.unroll(target.agent, batch.at)
    own = jnp.mean(quantile_mixture.quantiles(quantile_parts(), target, features, u), axis=-1)
    _, chosen = quantile_mixture.targets(quantile_parts(double_q), HYPER, target, batch, u, online)
    best = [np.where(batch.at.avail, q, -np.inf).argmax(-1) for q in (own, online)]
    np.testing.assert_array_equal(chosen, best[double_q])
    assert np.any(best[0] != best[1])


def test_a_quantile_mixture_acts_on_means_over_even_fractions():
    made = quantile_mixture.make(SPEC, GRU, vdn.make(SPEC), False, 4, 4, 16, 16, False)
    learner = made.init(jax.random.key(0), HYPER)
    learner = learner._replace(params=jax.tree.map(lambda x: 5 * x, learner.params))  # quantiles that cross
    at = jax.tree.map(lambda x: x[:4].reshape(-1, *x.shape[2:]), random_batch().at)
    carry = made.init_carry(at.first.shape[0])
    action, _ = made.act(learner, carry, at, jax.random.key(0), jnp.int32(0), "greedy")
    _, features, _ = GRU.step(learner.params.agent, carry, at)
    u = jnp.broadcast_to((jnp.arange(16) + 0.5) / 16, (*at.first.shape, 16))
    z = np.asarray(quantile_mixture.quantiles(quantile_parts(), learner.params, features, u))
    by_mean, by_first = (np.where(at.avail, q, -np.inf).argmax(-1) for q in (z.mean(-1), z[..., 0]))
    np.testing.assert_array_equal(action, by_mean)
    assert np.any(by_mean != by_first)
