"""Losses of value decomposition, plain and soft: what each term reaches, targets at every end, the OPT's optimum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meigm_jax.algos import me_igm, value_decomposition
from meigm_jax.algos.me_igm import Next
from meigm_jax.ops import policies
from tests.algos import variants
from tests.algos.variants import GRU, HYPER, MIXERS, random_batch, soft_parts
from tests.ops.forward_view import lambda_mixture

ALPHA = jnp.float32(0.1)


def networks(parts):
    """Online and target parameters that differ."""
    learner = me_igm.init(parts, jax.random.key(0), HYPER)
    other = me_igm.init(parts, jax.random.key(1), HYPER)
    return learner.params, other.params


@pytest.fixture(scope="module")
def term_gradients():
    """Gradients of each term of the ME-QMIX loss in the online and target networks."""
    parts, batch = soft_parts("me_qmix"), random_batch()

    @jax.jit
    def of(online, target):
        def terms(online, target):
            choose = partial(me_igm.choose_next, parts, target.opt, ALPHA, batch.at, jax.random.key(2))
            total, metrics = me_igm.loss(parts, HYPER, target, batch, choose, ALPHA, online)
            return {"total": total, "td": metrics["loss_td"], "opt": metrics["loss_opt"]}

        return jax.jacrev(terms, argnums=(0, 1))(online, target)

    return of(*networks(parts))


def reached(gradient):
    return {name for name, part in gradient._asdict().items() if any(jnp.any(x != 0) for x in jax.tree.leaves(part))}


def test_each_term_reaches_its_own_parameters_and_no_term_the_target_network(term_gradients):
    assert reached(term_gradients["td"][0]) == {"agent", "mixer"}
    assert reached(term_gradients["opt"][0]) == {"opt"}
    assert reached(term_gradients["total"][0]) == {"agent", "mixer", "opt", "temperature"}
    for _, target in term_gradients.values():
        assert reached(target) == set()


def test_the_sum_gives_every_group_the_gradient_of_its_own_term(term_gradients):
    total, td, opt = (term_gradients[name][0] for name in ("total", "td", "opt"))
    expected = (td.agent, td.mixer, opt.opt)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), (total.agent, total.mixer, total.opt), expected
    )


def test_alpha_gets_the_mean_of_entropy_minus_target_on_valid_rows(term_gradients):
    parts, batch = soft_parts("me_qmix"), random_batch()
    online, _ = networks(parts)
    rows = jax.tree.map(lambda x: x[:-1], batch.at)
    q, _ = parts.agent.unroll(online.agent, batch.at)
    entropy = me_igm.local_policy(parts, online.opt, ALPHA, q[:-1], rows).entropy().sum(-1)
    excess = np.asarray(entropy - 0.3 * policies.has_choice(rows.avail).sum(-1))
    found = term_gradients["total"][0].temperature["log_alpha"]
    np.testing.assert_allclose(found, excess[np.asarray(batch.valid)].mean(), rtol=1e-4)


@pytest.mark.parametrize("bootstrap_on_timeout", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_targets_episode_by_episode_at_every_kind_of_end(soft, bootstrap_on_timeout):
    parts, batch = soft_parts("me_vdn", bootstrap_on_timeout), random_batch()
    online, target = networks(parts)
    q, _ = GRU.unroll(online.agent, batch.at)
    if soft:
        chosen = me_igm.choose_next(parts, target.opt, ALPHA, batch.at, jax.random.key(5), q)
        found = me_igm.soft_targets(parts, HYPER, target, batch, chosen)
    else:
        chosen = Next(policies.greedy(q, batch.at.avail), jnp.zeros(q.shape[:2]))
        plain = value_decomposition.Parts(GRU, MIXERS["vdn"], bootstrap_on_timeout)
        own = value_decomposition.Network(target.agent, target.mixer)
        found = value_decomposition.targets(plain, HYPER, own, batch, q)
    found = np.asarray(found)
    target_q, _ = GRU.unroll(target.agent, batch.at)
    value = np.asarray(policies.take(target_q, chosen.action).sum(-1))  # VDN
    valid, cut = np.asarray(batch.valid), np.asarray(batch.terminated | (batch.truncated & (not bootstrap_on_timeout)))
    expected = np.zeros_like(found)
    for start, b in np.argwhere(np.asarray(batch.at.first)):
        length = int(np.cumprod(valid[start:, b]).sum())
        rows, after = slice(start, start + length), slice(start, start + length + 1)
        expected[rows, b] = lambda_mixture(
            np.asarray(batch.reward)[rows, b], value[after, b], np.asarray(chosen.bonus)[after, b],
            cut[start + length - 1, b], 0.9, 0.4,
        )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[~valid], 0.0)


@pytest.mark.parametrize("sampled", [False, True])
def test_next_actions_come_from_the_given_opt_with_their_entropy_bonus(sampled):
    parts, batch = soft_parts("me_qmix", sampled_entropy=sampled), random_batch()
    online, target = networks(parts)
    q, _ = parts.agent.unroll(online.agent, batch.at)
    chosen = me_igm.choose_next(parts, target.opt, ALPHA, batch.at, jax.random.key(3), q)
    w_and_b = (
        parts.opt.apply(target.opt, jnp.full(q.shape, x), batch.at.state, jnp.ones(q.shape[:-1], bool))
        for x in (1.0, 0.0)
    )
    one, zero = (np.asarray(x, np.float64) for x in w_and_b)
    logits = np.where(batch.at.avail, (one - zero) * np.asarray(q) / 0.1, -np.inf)
    logits -= logits.max(-1, keepdims=True)
    log_pi = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert np.all(np.take_along_axis(np.asarray(batch.at.avail), np.asarray(chosen.action)[..., None], -1))
    if sampled:
        local = -np.take_along_axis(log_pi, np.asarray(chosen.action)[..., None], -1)[..., 0]
    else:
        local = -np.sum(np.where(batch.at.avail, np.exp(log_pi) * np.maximum(log_pi, -1e9), 0.0), axis=-1)
    np.testing.assert_allclose(chosen.bonus, 0.1 * local.sum(-1), rtol=1e-3, atol=1e-5)


def test_rows_that_are_not_valid_do_not_change_the_loss():
    parts, batch = soft_parts("me_qmix"), random_batch()
    online, target = networks(parts)
    choose = partial(me_igm.choose_next, parts, target.opt, ALPHA, batch.at, jax.random.key(2))
    before, _ = me_igm.loss(parts, HYPER, target, batch, choose, ALPHA, online)
    reward = jnp.where(batch.valid, batch.reward, 1e6)
    action = jnp.where(batch.valid[..., None], batch.action, 3)
    after, _ = me_igm.loss(parts, HYPER, target, batch._replace(reward=reward, action=action), choose, ALPHA, online)
    np.testing.assert_array_equal(before, after)


def opt_problem(rows=64):
    """ME-VDN: utilities [T, B, N] that vary, and the OPT's loss against their sum."""
    parts = soft_parts("me_vdn")
    k_q, k_params = jax.random.split(jax.random.key(4))
    batch = random_batch()
    state = jnp.broadcast_to(batch.at.state[:1, :1], (rows + 1, 1, variants.STATE))
    avail = jnp.ones((rows + 1, 1, variants.AGENTS, variants.ACTIONS), bool)
    batch = batch._replace(at=batch.at._replace(state=state, avail=avail), valid=jnp.ones((rows, 1), bool))
    q = 2 * jax.random.normal(k_q, (rows, 1, variants.AGENTS))
    return parts, parts.opt.init(k_params), lambda opt: me_igm.opt_loss(parts, opt, q, q.sum(-1), batch)[0], state[0]


def test_the_opt_regression_of_me_vdn_is_solved_by_unit_weights():
    _, params, loss, _ = opt_problem()
    exact = jax.tree.map(jnp.zeros_like, params)
    exact["params"]["w"]["out"]["bias"] = jnp.ones(variants.AGENTS)
    value, gradient = jax.value_and_grad(loss)(exact)
    assert value < 1e-12 and optax.tree.norm(gradient) < 1e-5


def test_the_opt_regression_of_me_vdn_converges_to_unit_weights():
    parts, params, loss, state = opt_problem()
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(params):
        def step(_, carry):
            params, optimizer_state = carry
            updates, optimizer_state = optimizer.update(jax.grad(loss)(params), optimizer_state)
            return optax.apply_updates(params, updates), optimizer_state

        return jax.lax.fori_loop(0, 800, step, (params, optimizer.init(params)))[0]

    fitted, alive = fit(params), jnp.ones((1, variants.AGENTS), bool)
    assert loss(params) > 0.1 and loss(fitted) < 1e-4
    at_one, at_zero = (
        parts.opt.apply(fitted, jnp.full((1, variants.AGENTS, 1), x), state, alive).squeeze(-1) for x in (1.0, 0.0)
    )
    np.testing.assert_allclose(at_one - at_zero, 1.0, atol=0.02)
    np.testing.assert_allclose(at_zero.sum(), 0.0, atol=0.02)
