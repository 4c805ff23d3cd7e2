"""Weighted QMIX: an unrestricted central value gives the targets, and what lies below them counts less in the mixer's
loss (arXiv 2006.10800), centrally weighted (CW) or optimistically (OW)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.algos.common import joint_value_of, mixed, q_learning, td_targets, transitions, utilities_of
from meigm_jax.modules.layers import MLP, Hypernet, initial, run
from meigm_jax.ops import policies
from meigm_jax.ops.targets import masked_mean
from meigm_jax.types import Agent, Algorithm, Array, EnvSpec, Hyper, Metrics, Mixer, Params, TimeStep, Trajectory


class Central(nn.Module):
    """Q_c = MLP(s, u_1 .. u_N) + V(s), monotone in nothing; u_i are the utilities of agents of its own."""

    hidden_dim: int

    @nn.compact
    def __call__(self, u: Array, state: Array) -> Array:
        """u [..., N] of the chosen actions, state [..., G] -> Q_c [...]."""
        joint = MLP(1, self.hidden_dim, layers=4, name="joint")(jnp.concatenate([state, u], axis=-1))
        return (joint + Hypernet(1, self.hidden_dim, name="value")(state)).squeeze(-1)


class Parts(NamedTuple):
    """A mixer and a central value, each with agents (static)."""

    agent: Agent
    mixer: Mixer
    central: Central
    optimistic: bool
    low_weight: float
    bootstrap_on_timeout: bool


class Network(NamedTuple):
    """Utilities and mixer, and the central value with utilities of its own."""

    agent: Params
    mixer: Params
    central_agent: Params
    central: Params


def central(parts: Parts, network: Network, action: Array, at: TimeStep) -> Array:
    """Q_c of all rows [T, B] but those beyond the joint actions, i32[T, B, N]."""
    u, _ = parts.agent.unroll(network.central_agent, at)
    rows = action.shape[0]
    return run(parts.central, network.central, policies.take(u[:rows], action), at.state[:rows])


def weights(parts: Parts, q_tot: Array, targets: Array, action: Array, best: Array, at_best: Array) -> Array:
    """1 where an estimate counts in full, low_weight elsewhere, [T, B].

    CW: the action is the greedy one, or its target is above the greedy one's central value; OW: Q_tot is too low.
    """
    full = q_tot < targets if parts.optimistic else jnp.all(action == best, axis=-1) | (targets > at_best)
    return jnp.where(full, 1.0, parts.low_weight)


def loss(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, key: Array, online: Network
) -> tuple[Array, Metrics]:
    """<w (Q_tot - y)^2> + 1/2 <(Q_c - y)^2>; y bootstraps from the target's Q_c at the greedy actions of the mixer."""
    q, features = parts.agent.unroll(online.agent, batch.at)
    best = policies.greedy(q, batch.at.avail)
    value = central(parts, target, best, batch.at)
    y = jax.lax.stop_gradient(td_targets(hyper, batch, parts.bootstrap_on_timeout, value))
    q_tot = mixed(parts.mixer, online.mixer, q[:-1], features[:-1], batch.action, transitions(batch))
    q_central = central(parts, online, batch.action, batch.at)
    fixed = jax.lax.stop_gradient(q_tot)
    weight = weights(parts, fixed, y, batch.action, best[:-1], value[:-1])
    loss_td = masked_mean(weight * jnp.square(q_tot - y), batch.valid)
    loss_central = 0.5 * masked_mean(jnp.square(q_central - y), batch.valid)
    metrics = {"q_tot_mean": masked_mean(q_tot, batch.valid), "td_weight": masked_mean(weight, batch.valid)}
    return loss_td + loss_central, metrics | {"loss_td": loss_td, "loss_central": loss_central}


def make(
    spec: EnvSpec,
    agent: Agent,
    mixer: Mixer,
    bootstrap_on_timeout: bool,
    weighting: str,
    low_weight: float,
    central_dim: int,
) -> Algorithm:
    """The rule. weighting: central (CW-QMIX) | optimistic (OW-QMIX)."""
    parts = Parts(agent, mixer, Central(central_dim), weighting == "optimistic", low_weight, bootstrap_on_timeout)

    def init(key: Array) -> Network:
        k_agent, k_mixer, k_central_agent, k_central = jax.random.split(key, 4)
        central_params = initial(parts.central, k_central, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_dim))
        return Network(agent.init(k_agent), mixer.init(k_mixer), agent.init(k_central_agent), central_params)

    joint_value = joint_value_of(agent, mixer)
    return q_learning(init, agent.init_carry, utilities_of(agent), partial(loss, parts), joint_value)
