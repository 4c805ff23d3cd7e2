"""Value decomposition with TD(lambda) and double Q: VDN, QMIX, QPLEX, Qatten, by their mixer (me_igm.py: their
maximum-entropy versions)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.algos.common import joint_value_of, mixed, q_learning, td_targets, transitions, utilities_of
from meigm_jax.ops import policies
from meigm_jax.ops.targets import masked_mean
from meigm_jax.types import Agent, Algorithm, Array, EnvSpec, Hyper, Metrics, Mixer, Params, Trajectory


class Parts(NamedTuple):
    """What the rule is made of (static)."""

    agent: Agent
    mixer: Mixer
    bootstrap_on_timeout: bool


class Network(NamedTuple):
    """Parameters of the utilities and of the mixer."""

    agent: Params
    mixer: Params


def targets(parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, q: Array) -> Array:
    """Targets y [T, B] by TD(lambda): greedy actions of the online q [T + 1, B, N, A], valued by the target network."""
    target_q, features = parts.agent.unroll(target.agent, batch.at)
    value = mixed(parts.mixer, target.mixer, target_q, features, policies.greedy(q, batch.at.avail), batch.at)
    return td_targets(hyper, batch, parts.bootstrap_on_timeout, value)


def loss(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, key: Array, online: Network
) -> tuple[Array, Metrics]:
    """Half the mean of (Q_tot - y)^2 over valid rows."""
    q, features = parts.agent.unroll(online.agent, batch.at)
    y = jax.lax.stop_gradient(targets(parts, hyper, target, batch, q))
    q_tot = mixed(parts.mixer, online.mixer, q[:-1], features[:-1], batch.action, transitions(batch))
    loss_td = 0.5 * masked_mean(jnp.square(q_tot - y), batch.valid)
    return loss_td, {"loss_td": loss_td, "q_tot_mean": masked_mean(q_tot, batch.valid)}


def make(spec: EnvSpec, agent: Agent, mixer: Mixer, bootstrap_on_timeout: bool) -> Algorithm:
    """The rule with its parts."""

    def init(key: Array) -> Network:
        k_agent, k_mixer = jax.random.split(key)
        return Network(agent.init(k_agent), mixer.init(k_mixer))

    parts = Parts(agent, mixer, bootstrap_on_timeout)
    joint_value = joint_value_of(agent, mixer)
    return q_learning(init, agent.init_carry, utilities_of(agent), partial(loss, parts), joint_value)
