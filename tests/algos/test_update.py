"""Value decomposition's gradient step, behaviour and temperature, on a small batch; all rules: test_contract."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.algos import me_igm, soft_qmix
from meigm_jax.modules import opt
from meigm_jax.ops import policies
from tests.algos.variants import ACTIONS, AGENTS, GRU, HYPER, SPEC, make_algorithm, random_batch, soft_parts

DRAWS = 2000
GROUPS = {("agent", "mixer"): "learning_rate", ("opt",): "opt_learning_rate", ("temperature",): "alpha_learning_rate"}


def soft_qmix_by_its_code():
    """Its algorithm and the parts that this stands for."""
    parts = soft_parts("me_vdn", sampled_entropy=True)
    algorithm = soft_qmix.make(SPEC, *parts[:4], False, "sampled", hypernet_dim=8, width=4, half_weights=True)
    g = opt.make_two_layer(SPEC, 8, 4, residual=True, mask_dead=False)
    transformed = soft_qmix.transformed(parts.agent, g)
    return algorithm, parts._replace(agent=transformed, weigh=soft_qmix.halved)


def stepped_by_hand(parts, opt_of, learner, batches, keys):
    """Parameters after Adam on each group's own gradient, clipped but for the temperature's, and the largest norms.

    opt_of: whose OPT the next actions follow, "params" or "target".
    """
    params, hyper, memory, norms = learner.params, learner.hyper, {}, {}
    for t, (batch, key) in enumerate(zip(batches, keys, strict=True), start=1):
        alpha = jnp.exp(params.temperature["log_alpha"])
        followed = {"params": params, "target": learner.target}[opt_of].opt
        choose = partial(me_igm.choose_next, parts, followed, alpha, batch.at, key)
        gradients = jax.grad(lambda x: me_igm.loss(parts, hyper, learner.target, batch, choose, alpha, x)[0])(params)  # noqa: B023
        for names, rate in GROUPS.items():
            of = [getattr(gradients, name) for name in names]
            norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(of)))
            norms[names] = max(norms.get(names, 0.0), norm)
            scale = 1.0 if names == ("temperature",) else min(1.0, hyper.max_grad_norm / norm)
            for name, gradient in zip(names, of, strict=True):
                m, v = memory.get(name, (jax.tree.map(jnp.zeros_like, gradient),) * 2)
                m = jax.tree.map(lambda m, g, s=scale: 0.9 * m + 0.1 * s * g, m, gradient)
                v = jax.tree.map(lambda v, g, s=scale: 0.999 * v + 0.001 * (s * g) ** 2, v, gradient)
                new = jax.tree.map(
                    lambda x, m, v, t=t, rate=rate: (
                        x - getattr(hyper, rate) * m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
                    ),
                    getattr(params, name), m, v,
                )  # fmt: skip
                params, memory[name] = params._replace(**{name: new}), (m, v)
    return params, norms


@pytest.mark.parametrize(("variant", "opt_of"), [("me_qmix", "target"), ("soft_qmix", "params")])
def test_gradient_steps_are_clipped_adam_of_each_group_at_its_own_rate(variant, opt_of):
    with jax.enable_x64(True):
        hyper = HYPER._replace(learning_rate=2e-3, opt_learning_rate=5e-3, alpha_learning_rate=3e-2, max_grad_norm=0.5)
        made = soft_qmix_by_its_code() if variant == "soft_qmix" else (make_algorithm(variant), soft_parts(variant))
        algorithm, parts = made
        wide = partial(jax.tree.map, lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x)
        batches = [wide(random_batch(seed, reward_scale)) for seed, reward_scale in ((0, 3.0), (1, 1.0), (2, 10.0))]
        start, other = (algorithm.init(jax.random.key(seed), jax.tree.map(jnp.float64, hyper)) for seed in (0, 1))
        start = start._replace(target=other.params)
        keys = jax.random.split(jax.random.key(2), len(batches))
        learner = start
        found: dict[tuple[str, ...], float] = {}
        for batch, key in zip(batches, keys, strict=True):
            learner, metrics = algorithm.update(learner, key, batch, jnp.int32(50))
            for names, name in ((("agent", "mixer"), "grad_norm"), (("opt",), "grad_norm_opt")):
                found[names] = max(found.get(names, 0.0), metrics[name])
        wanted, norms = stepped_by_hand(parts, opt_of, start, batches, keys)
        for names, norm in found.items():
            np.testing.assert_allclose(norm, norms[names], rtol=1e-9)
    assert min(norms[names] for names in GROUPS if names != ("temperature",)) > hyper.max_grad_norm  # all are clipped
    for name in me_igm.Network._fields:
        before, found, right = (jax.tree.leaves(getattr(x, name)) for x in (start.params, learner.params, wanted))
        for a, b, c in zip(before, found, right, strict=True):
            np.testing.assert_allclose(b, c, rtol=1e-9, atol=1e-12)
            assert not np.allclose(a, b, rtol=1e-4, atol=0) or not np.any(a - c)


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
    algorithm, at = make_algorithm(variant), observations(random_batch())
    learner, carry = algorithm.init(jax.random.key(0), HYPER), algorithm.init_carry(at.obs.shape[0])
    act = jax.jit(jax.vmap(partial(algorithm.act, policy=policy), in_axes=(None, None, None, 0, None)))
    actions, carries = act(learner, carry, at, jax.random.split(jax.random.key(1), DRAWS), jnp.int32(0))
    assert actions.shape == (DRAWS, at.obs.shape[0], AGENTS) and carries.shape[1:] == carry.shape
    assert jnp.all(policies.take(jnp.broadcast_to(at.avail, (DRAWS, *at.avail.shape)), actions))
    if policy == "greedy":
        q, _, _ = GRU.step(learner.params.agent, carry, at)
        best = np.where(at.avail, q, -np.inf).argmax(-1)
        np.testing.assert_array_equal(actions, np.broadcast_to(best, actions.shape))
    else:
        taken = jax.nn.one_hot(actions, ACTIONS).sum(0)
        assert jnp.all((taken > 0) == at.avail)  # alpha is high, and epsilon 1: all that is available comes up


@pytest.mark.parametrize(
    ("variant", "step", "epsilon"), [("qmix", 0, 1.0), ("qmix", 50, 0.55), ("qmix", 10**6, 0.1), ("me_qmix", 0, 0.0)]
)
def test_behaviour_follows_its_distribution(variant, step, epsilon):
    algorithm, at = make_algorithm(variant), observations(random_batch(3))
    hyper = HYPER._replace(alpha_decay_steps=jnp.float32(1e4))
    learner, carry = algorithm.init(jax.random.key(0), hyper), algorithm.init_carry(at.obs.shape[0])
    draw = jax.jit(jax.vmap(lambda key: algorithm.act(learner, carry, at, key, jnp.int32(step), "sampled")[0]))
    actions = draw(jax.random.split(jax.random.key(2), 4000))
    q, _, _ = GRU.step(learner.params.agent, carry, at)
    if variant == "qmix":
        pi = policies.epsilon_greedy(q, at.avail, jnp.float32(epsilon))
    else:
        pi = me_igm.local_policy(soft_parts(variant), learner.params.opt, jnp.float32(0.1), q, at)
    np.testing.assert_allclose(jax.nn.one_hot(actions, ACTIONS).mean(0), pi.probs, atol=0.04)


def test_mode_is_the_likeliest_action_where_order_is_lost():
    """The unconstrained network may rank actions otherwise than the utilities do: then mode is not greedy."""
    algorithm, parts, at = make_algorithm("mlp"), soft_parts("mlp"), observations(random_batch(5))
    learner, carry = algorithm.init(jax.random.key(4), HYPER), algorithm.init_carry(at.obs.shape[0])
    mode, _ = algorithm.act(learner, carry, at, jax.random.key(0), jnp.int32(0), "mode")
    greedy, _ = algorithm.act(learner, carry, at, jax.random.key(0), jnp.int32(0), "greedy")
    q, _, _ = GRU.step(learner.params.agent, carry, at)
    pi = me_igm.local_policy(parts, learner.params.opt, jnp.float32(0.1), q, at)
    np.testing.assert_array_equal(mode, jnp.argmax(pi.probs, axis=-1))
    assert jnp.any(mode != greedy)
