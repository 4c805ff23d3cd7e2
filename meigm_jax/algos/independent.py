"""IQL: every agent learns from the team's reward as if it were alone (independent Q-learning, Tan 1993)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from meigm_jax.algos.common import q_learning, td_targets
from meigm_jax.ops import policies
from meigm_jax.ops.targets import masked_mean
from meigm_jax.types import Agent, Algorithm, Array, EnvSpec, Hyper, Metrics, Params, TimeStep, Trajectory


def loss(
    agent: Agent,
    bootstrap_on_timeout: bool,
    hyper: Hyper,
    target: Params,
    batch: Trajectory,
    key: Array,
    online: Params,
) -> tuple[Array, Metrics]:
    """Half the mean over agents and valid rows of (q_i - y_i)^2, with double Q and TD(lambda) for every agent alone."""
    q, _ = agent.unroll(online, batch.at)
    target_q, _ = agent.unroll(target, batch.at)
    value = policies.take(target_q, policies.greedy(q, batch.at.avail))
    of_agent = partial(td_targets, hyper, batch, bootstrap_on_timeout)
    y = jax.lax.stop_gradient(jax.vmap(of_agent, in_axes=-1, out_axes=-1)(value))
    taken = policies.take(q[:-1], batch.action)
    valid = jnp.broadcast_to(batch.valid[..., None], taken.shape)
    loss_td = 0.5 * masked_mean(jnp.square(taken - y), valid)
    return loss_td, {"loss_td": loss_td, "q_mean": masked_mean(taken, valid)}


def make(spec: EnvSpec, agent: Agent, bootstrap_on_timeout: bool) -> Algorithm:
    """Independent Q-learning; it has no joint value."""

    def utilities(params: Params, carry: Any, at: TimeStep) -> tuple[Array, Any]:
        q, _, carry = agent.step(params, carry, at)
        return q, carry

    return q_learning(agent.init, agent.init_carry, utilities, partial(loss, agent, bootstrap_on_timeout))
