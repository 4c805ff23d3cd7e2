"""QTRAN-base: an unrestricted joint value, and utilities whose sum is held to it where IGM needs that (1905.05408)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.algos.common import q_learning, td_targets, transitions, utilities_of
from meigm_jax.modules.layers import MLP, initial, run
from meigm_jax.ops import policies
from meigm_jax.ops.targets import masked_mean
from meigm_jax.types import Agent, Algorithm, Array, EnvSpec, Hyper, Learner, Metrics, Params, TimeStep, Trajectory


class Joint(nn.Module):
    """Q_jt(s, h, a) = MLP(s, sum_i enc(h_i, a_i)) and V(s) = MLP(s); with inputs "actions" Q_jt reads s and a alone."""

    num_actions: int
    embed_dim: int
    layers: int  # Linear layers of each MLP
    inputs: str  # features | actions

    @nn.compact
    def __call__(self, state: Array, features: Array, action: Array) -> tuple[Array, Array]:
        """state [..., G], features [..., N, H], action i32[..., N] -> Q_jt and V, [...] each."""
        one_hot = jax.nn.one_hot(action, self.num_actions, dtype=state.dtype)
        if self.inputs == "features":
            local = jnp.concatenate([features, one_hot], axis=-1)
            joint = jnp.sum(MLP(local.shape[-1], local.shape[-1], layers=2, name="encode")(local), axis=-2)
        else:
            joint = one_hot.reshape(*one_hot.shape[:-2], -1)
        q = MLP(1, self.embed_dim, self.layers, name="q")(jnp.concatenate([state, joint], axis=-1))
        v = MLP(1, self.embed_dim, self.layers, name="v")(state)
        return q.squeeze(-1), v.squeeze(-1)


class Parts(NamedTuple):
    """Utilities, the joint value, and what holds them together (static)."""

    agent: Agent
    joint: Joint
    optimal_weight: float
    nonoptimal_weight: float
    bootstrap_on_timeout: bool


class Network(NamedTuple):
    """Parameters of utilities and joint value (with V)."""

    agent: Params
    joint: Params


def joint(parts: Parts, network: Network, features: Array, action: Array, at: TimeStep) -> tuple[Array, Array]:
    """Q_jt and V [...] of the joint action i32[..., N]."""
    return run(parts.joint, network.joint, at.state, features, action)


def targets(parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, best: Array) -> Array:
    """y [T, B] from the target network's Q_jt at the online network's greedy actions i32[T + 1, B, N]."""
    _, features = parts.agent.unroll(target.agent, batch.at)
    value, _ = joint(parts, target, features, best, batch.at)
    return td_targets(hyper, batch, parts.bootstrap_on_timeout, value)


def loss(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, key: Array, online: Network
) -> tuple[Array, Metrics]:
    """L_td + L_opt + L_nopt (arXiv 1905.05408, eqs. 4 to 6, weighted); the last two teach utilities and V alone."""
    q, features = parts.agent.unroll(online.agent, batch.at)
    best = policies.greedy(q, batch.at.avail)
    y = jax.lax.stop_gradient(targets(parts, hyper, target, batch, best))
    q, features, best, rows = q[:-1], features[:-1], best[:-1], transitions(batch)
    q_joint, v = joint(parts, online, features, batch.action, rows)
    at_best, _ = jax.lax.stop_gradient(joint(parts, online, features, best, rows))
    gap_at_best = jnp.sum(policies.take(q, best), axis=-1) - at_best + v
    gap = jnp.sum(policies.take(q, batch.action), axis=-1) - jax.lax.stop_gradient(q_joint) + v
    loss_td = masked_mean(jnp.square(q_joint - y), batch.valid)
    loss_optimal = masked_mean(jnp.square(gap_at_best), batch.valid)
    loss_nonoptimal = masked_mean(jnp.square(jnp.minimum(gap, 0.0)), batch.valid)
    metrics = {
        "loss_td": loss_td,
        "loss_optimal": loss_optimal,
        "loss_nonoptimal": loss_nonoptimal,
        "q_tot_mean": masked_mean(q_joint, batch.valid),
    }
    return loss_td + parts.optimal_weight * loss_optimal + parts.nonoptimal_weight * loss_nonoptimal, metrics


def make(
    spec: EnvSpec,
    agent: Agent,
    bootstrap_on_timeout: bool,
    inputs: str,
    layers: int,
    embed_dim: int,
    optimal_weight: float,
    nonoptimal_weight: float,
) -> Algorithm:
    """The rule. inputs of the joint value: features (the paper's) | actions."""
    module = Joint(spec.num_actions, embed_dim, layers, inputs)
    parts = Parts(agent, module, optimal_weight, nonoptimal_weight, bootstrap_on_timeout)

    def init(key: Array) -> Network:
        k_agent, k_joint = jax.random.split(key)
        features = jnp.zeros((spec.num_agents, agent.feature_dim))
        nothing = jnp.zeros(spec.state_dim), features, jnp.zeros(spec.num_agents, jnp.int32)
        return Network(agent.init(k_agent), initial(module, k_joint, *nothing))

    def joint_value(learner: Learner, at: TimeStep, action: Array) -> Array:
        _, features = agent.unroll(learner.params.agent, at)
        return joint(parts, learner.params, features, action, at)[0]

    return q_learning(init, agent.init_carry, utilities_of(agent), partial(loss, parts), joint_value)
