"""Distributional value decomposition: implicit quantiles of every agent's return, their means mixed by QMIX (DMIX) or
summed (DDN), their shapes added (arXiv 2102.07936)."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.algos.common import mixed, q_learning, td_targets, transitions
from meigm_jax.modules.layers import Linear, initial, run
from meigm_jax.ops import policies, shards
from meigm_jax.ops.targets import masked_mean
from meigm_jax.types import (
    Agent,
    Algorithm,
    Array,
    EnvSpec,
    Hyper,
    Learner,
    Metrics,
    Mixer,
    Params,
    TimeStep,
    Trajectory,
)


class Embedding(nn.Module):
    """phi(u) = ReLU(Linear([cos(pi j u)], j = 0 .. num_cosines - 1)), u [...] -> [..., H] (IQN, arXiv 1806.06923)."""

    num_cosines: int
    features: int

    @nn.compact
    def __call__(self, u: Array) -> Array:
        """Quantile fractions u [...] -> [..., features]."""
        frequencies = jnp.pi * jnp.arange(self.num_cosines, dtype=u.dtype)
        return nn.relu(Linear(self.features, name="phi")(jnp.cos(u[..., None] * frequencies)))


class Parts(NamedTuple):
    """Utilities, mixer, and how many quantiles where (static)."""

    agent: Agent
    mixer: Mixer
    embedding: Embedding
    num_quantiles: int
    target_quantiles: int
    double_q: bool
    bootstrap_on_timeout: bool


class Network(NamedTuple):
    """Parameters; the agent's last layer makes quantiles from embedded features."""

    agent: Params
    embedding: Params
    mixer: Params


def quantiles(parts: Parts, network: Network, features: Array, u: Array) -> Array:
    """Z_i(u, .) [..., N, A, K] from features [..., N, H] and quantile fractions u [..., K] that all agents share."""
    phi = run(parts.embedding, network.embedding, u)[..., None, :, :]
    z = parts.agent.head(network.agent, features[..., None, :] * phi)  # [..., N, K, A]
    return jnp.swapaxes(z, -1, -2)


def mixture(parts: Parts, network: Network, z: Array, features: Array, action: Array, at: TimeStep) -> Array:
    """Z_tot(u) [..., K] = M(E Z_1, .., E Z_N; s) + sum_i (Z_i(u) - E Z_i) of the joint action i32[..., N].

    z [..., N, A, K]; E is the mean over its fractions.
    """
    mean = mixed(parts.mixer, network.mixer, jnp.mean(z, axis=-1), features, action, at)
    taken = jnp.take_along_axis(z, action[..., None, None], axis=-2).squeeze(-2)
    shape = taken - jnp.mean(taken, axis=-1, keepdims=True)
    return mean[..., None] + jnp.sum(shape, axis=-2)


def quantile_huber(u: Array, error: Array) -> Array:
    """sum_k mean_j |u_k - 1[error_kj <= 0]| huber_1(error_kj), [...]; u [..., K], error [..., K, J] = y_j - Z(u_k)."""
    size = jnp.abs(error)
    huber = jnp.where(size <= 1.0, 0.5 * jnp.square(error), size - 0.5)
    tilt = jnp.abs(u[..., None] - (error <= 0))
    return jnp.sum(jnp.mean(tilt * huber, axis=-1), axis=-1)


def targets(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, u: Array, mean: Array
) -> tuple[Array, Array]:
    """y [T, B, J] at fractions u [T + 1, B, J] and the next actions; online means [T + 1, B, N, A] choose in double Q.

    With lambda > 0 targets are mixed fraction by fraction; the reference has one-step targets, lambda = 0.
    """
    _, features = parts.agent.unroll(target.agent, batch.at)
    z = quantiles(parts, target, features, u)
    chosen = policies.greedy(mean if parts.double_q else jnp.mean(z, axis=-1), batch.at.avail)
    value = mixture(parts, target, z, features, chosen, batch.at)
    of_fraction = partial(td_targets, hyper, batch, parts.bootstrap_on_timeout)
    return jax.vmap(of_fraction, in_axes=-1, out_axes=-1)(value), chosen


def loss_at(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, u: Array, target_u: Array, online: Network
) -> tuple[Array, Metrics]:
    """The quantile regression loss at fractions u [T + 1, B, K] and target_u [T + 1, B, J]."""
    _, features = parts.agent.unroll(online.agent, batch.at)
    z = quantiles(parts, online, features, u)
    mean = jax.lax.stop_gradient(jnp.mean(z, axis=-1))
    y = jax.lax.stop_gradient(targets(parts, hyper, target, batch, target_u, mean)[0])
    z_tot = mixture(parts, online, z[:-1], features[:-1], batch.action, transitions(batch))
    error = y[..., None, :] - z_tot[..., :, None]
    loss_td = masked_mean(quantile_huber(u[:-1], error), batch.valid)
    return loss_td, {"loss_td": loss_td, "q_tot_mean": masked_mean(jnp.mean(z_tot, axis=-1), batch.valid)}


def loss(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, key: Array, online: Network
) -> tuple[Array, Metrics]:
    """`loss_at` at fresh fractions, uniform in [0, 1]."""
    k_online, k_target = jax.random.split(key)
    rows = batch.at.first.shape
    u = shards.uniform(k_online, (*rows, parts.num_quantiles), axis=1)
    target_u = shards.uniform(k_target, (*rows, parts.target_quantiles), axis=1)
    return loss_at(parts, hyper, target, batch, u, target_u, online)


def evenly(count: int, leading: tuple[int, ...]) -> Array:
    """The middles of `count` equal parts of [0, 1], [*leading, count]: what acting averages over, without noise."""
    return jnp.broadcast_to((jnp.arange(count) + 0.5) / count, (*leading, count))


def make(
    spec: EnvSpec,
    agent: Agent,
    mixer: Mixer,
    bootstrap_on_timeout: bool,
    num_quantiles: int,
    target_quantiles: int,
    acting_quantiles: int,
    num_cosines: int,
    double_q: bool,
) -> Algorithm:
    """The rule; utilities are means over quantiles. double_q: the online network chooses next actions."""
    embedding = Embedding(num_cosines, agent.feature_dim)
    parts = Parts(agent, mixer, embedding, num_quantiles, target_quantiles, double_q, bootstrap_on_timeout)

    def init(key: Array) -> Network:
        k_agent, k_embedding, k_mixer = jax.random.split(key, 3)
        return Network(agent.init(k_agent), initial(embedding, k_embedding, jnp.zeros(1)), mixer.init(k_mixer))

    def utilities(params: Network, carry: Any, at: TimeStep) -> tuple[Array, Any]:
        _, features, carry = agent.step(params.agent, carry, at)
        z = quantiles(parts, params, features, evenly(acting_quantiles, at.first.shape))
        return jnp.mean(z, axis=-1), carry

    def joint_value(learner: Learner, at: TimeStep, action: Array) -> Array:
        _, features = agent.unroll(learner.params.agent, at)
        z = quantiles(parts, learner.params, features, evenly(acting_quantiles, at.first.shape))
        return jnp.mean(mixture(parts, learner.params, z, features, action, at), axis=-1)

    return q_learning(init, agent.init_carry, utilities, partial(loss, parts), joint_value)
