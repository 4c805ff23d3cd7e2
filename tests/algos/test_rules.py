"""The rules with losses of their own, by numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.algos import independent, quantile_mixture, soft_qmix, weighted_qmix
from meigm_jax.mixers import vdn
from meigm_jax.modules import agent
from meigm_jax.modules.layers import initial
from tests.algos.variants import ACTIONS, AGENTS, HYPER, SPEC, random_batch
from tests.ops.forward_view import lambda_mixture

GRU = agent.make_gru(SPEC, hidden_dim=8)


def test_quantile_huber_of_two_fractions_and_targets():
    """u = 1/4, 3/4 at Z = 0, 1; y = 0.5, 3: errors [[0.5, 3], [-0.5, 2]]."""
    u, z, y = jnp.array([0.25, 0.75]), jnp.array([0.0, 1.0]), jnp.array([0.5, 3.0])
    below = (0.25 * 0.125 + 0.25 * 2.5) / 2  # 0.5 * 0.5^2, and 3 - 0.5
    above = (0.25 * 0.125 + 0.75 * 1.5) / 2  # |0.75 - 1| where the target lies below
    found = quantile_mixture.quantile_huber(u, y[None, :] - z[:, None])
    np.testing.assert_allclose(found, below + above, rtol=1e-6)


def test_a_mixture_has_the_mixers_mean_and_the_summed_shapes():
    """Two agents: Z_1 = 1 + {-1, 0, 1}, Z_2 = 10 + {-2, 0, 2}: of the sum, 11 + {-3, 0, 3}."""
    spec = SPEC._replace(num_agents=2)
    parts = quantile_mixture.Parts(None, vdn.make(spec), None, 3, 3, False, False)  # type: ignore[arg-type]
    shape = jnp.array([-1.0, 0.0, 1.0])
    z = jnp.zeros((2, ACTIONS, 3)).at[0, 2].set(1.0 + shape).at[1, 0].set(10.0 + 2 * shape)
    at = jax.tree.map(lambda x: x[0, 0], random_batch().at)._replace(avail=jnp.ones((2, ACTIONS), bool))
    network = quantile_mixture.Network({}, {}, {})
    found = quantile_mixture.mixture(parts, network, z, jnp.zeros((2, 8)), jnp.array([2, 0]), at)
    np.testing.assert_allclose(found, [8.0, 11.0, 14.0], rtol=1e-6)


def test_all_agents_share_the_fractions_of_a_row():
    """Two agents with the same memory have the same quantiles."""
    parts = quantile_mixture.Parts(GRU, vdn.make(SPEC), quantile_mixture.Embedding(16, 8), 4, 4, False, False)
    k_agent, k_phi = jax.random.split(jax.random.key(0))
    network = quantile_mixture.Network(GRU.init(k_agent), initial(parts.embedding, k_phi, jnp.zeros(1)), {})
    features = jnp.broadcast_to(jnp.linspace(-1, 1, 8), (AGENTS, 8))
    z = quantile_mixture.quantiles(parts, network, features, jnp.array([0.1, 0.4, 0.6, 0.9]))
    assert z.shape == (AGENTS, ACTIONS, 4) and jnp.all(jnp.std(z, axis=-1) > 0)
    np.testing.assert_array_equal(z, jnp.broadcast_to(z[:1], z.shape))


@pytest.mark.parametrize(
    ("optimistic", "expected"),
    [
        (False, [1.0, 0.1, 1.0]),  # greedy itself; not greedy and below it; not greedy but above it
        (True, [0.1, 0.1, 1.0]),  # full where Q_tot is below its target
    ],
)
def test_weights_of_weighted_qmix(optimistic, expected):
    parts = weighted_qmix.Parts(GRU, vdn.make(SPEC), weighted_qmix.Central(4), optimistic, 0.1, False)
    q_tot, targets, at_best = jnp.array([2.0, 2.0, 2.0]), jnp.array([1.0, 1.0, 5.0]), jnp.array([4.0, 4.0, 4.0])
    best = jnp.zeros((3, AGENTS), int)
    action = best.at[1:, 0].set(1)
    np.testing.assert_allclose(weighted_qmix.weights(parts, q_tot, targets, action, best, at_best), expected)


def test_weighted_qmix_by_its_definition():
    """Loss and targets from the values of its own networks, row by row."""
    batch = random_batch(1)
    parts = weighted_qmix.Parts(GRU, vdn.make(SPEC), weighted_qmix.Central(8), False, 0.1, False)
    keys = jax.random.split(jax.random.key(0), 4)

    def network(k_agent, k_central):
        k_own, k_net = jax.random.split(k_central)
        central = initial(parts.central, k_net, jnp.zeros(AGENTS), jnp.zeros(SPEC.state_dim))
        return weighted_qmix.Network(GRU.init(k_agent), {}, GRU.init(k_own), central)

    online, target = network(*keys[:2]), network(*keys[2:])
    q = np.asarray(GRU.unroll(online.agent, batch.at)[0], np.float64)
    best = np.where(batch.at.avail, q, -np.inf).argmax(-1)
    value = np.asarray(weighted_qmix.central(parts, target, jnp.asarray(best), batch.at), np.float64)
    q_central = np.asarray(weighted_qmix.central(parts, online, batch.action, batch.at), np.float64)
    y = forward_targets(batch, value)
    action = np.asarray(batch.action)
    q_tot = np.take_along_axis(q[:-1], action[..., None], axis=-1).sum(axis=(-1, -2))
    full = (action == best[:-1]).all(-1) | (y > value[:-1])
    valid = np.asarray(batch.valid)
    expected = np.mean((np.where(full, 1.0, 0.1) * (q_tot - y) ** 2)[valid]) + 0.5 * np.mean(
        ((q_central - y) ** 2)[valid]
    )
    found, _ = weighted_qmix.loss(parts, HYPER, target, batch, jax.random.key(1), online)
    assert 0 < full[valid].mean() < 1
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_independent_learners_by_their_definition():
    """Every agent has targets from its own target values, and all weigh the same."""
    batch = random_batch(2)
    online, target = GRU.init(jax.random.key(0)), GRU.init(jax.random.key(1))
    q = np.asarray(GRU.unroll(online, batch.at)[0], np.float64)
    target_q = np.asarray(GRU.unroll(target, batch.at)[0], np.float64)
    best = np.where(batch.at.avail, q, -np.inf).argmax(-1)
    value = np.take_along_axis(target_q, best[..., None], axis=-1)[..., 0]
    taken = np.take_along_axis(q[:-1], np.asarray(batch.action)[..., None], axis=-1)[..., 0]
    errors = [(taken[..., i] - forward_targets(batch, value[..., i]))[np.asarray(batch.valid)] for i in range(AGENTS)]
    found, _ = independent.loss(GRU, False, HYPER, target, batch, jax.random.key(2), online)
    np.testing.assert_allclose(found, 0.5 * np.mean(np.square(errors)), rtol=1e-4)


def test_a_row_counts_half_where_q_tot_lies_between_the_policys_sum_and_its_target():
    """Sums of f, Q_tot and y in all orders."""
    f, q_tot, y = np.array([[1, 2, 3], [3, 2, 1], [2, 1, 3], [2, 3, 1], [1, 3, 2], [3, 1, 2]], float).T
    between = (np.minimum(f, y) < q_tot) & (q_tot < np.maximum(f, y))
    np.testing.assert_array_equal(soft_qmix.halved(jnp.asarray(f - q_tot), jnp.asarray(q_tot - y)) == 0.5, between)


def forward_targets(batch, value):
    """TD(lambda) targets [T, B] episode by episode, time limits terminal; 0 where not valid."""
    gamma, lam = float(HYPER.gamma), float(HYPER.td_lambda)
    valid, found = np.asarray(batch.valid), np.zeros(batch.reward.shape)
    for b in range(valid.shape[1]):
        starts = [t for t in range(len(valid)) if valid[t, b] and (t == 0 or not valid[t - 1, b])]
        for start in starts:
            end = next((t for t in range(start, len(valid)) if not valid[t, b]), len(valid))
            over = bool(batch.terminated[end - 1, b] | batch.truncated[end - 1, b])
            rows = value[start : end + 1, b]
            found[start:end, b] = lambda_mixture(
                np.asarray(batch.reward)[start:end, b], rows, np.zeros_like(rows), over, gamma, lam
            )
    return found
