"""Soft-QMIX (the June 2024 version of arXiv 2406.13930): monotone g_i(.; s) on the utilities before they are mixed.

Policies are softmax(f_i(g_i(q_i); s) / alpha).

With QMIX's mixer and equal weights this is the paper. Its published code differs: Q_tot is the plain sum (mixer vdn),
and rows where Q_tot lies between sum_i f_i and its target count half (half_weights).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.algos import me_igm
from meigm_jax.modules.opt import make_two_layer
from meigm_jax.ops import policies
from meigm_jax.types import Agent, Algorithm, Array, EnvSpec, Mixer, Opt, Params, Temperature, TimeStep


class Utilities(NamedTuple):
    """Parameters of the local utilities."""

    agent: Params
    transform: Params


def transformed(agent: Agent, transform: Opt) -> Agent:
    """The agent whose utilities are g_i(q_i; s): g preserves their order, so greedy actions stay decentralised."""

    def init(key: Array) -> Utilities:
        k_agent, k_transform = jax.random.split(key)
        return Utilities(agent.init(k_agent), transform.init(k_transform))

    def apply(params: Utilities, q: Array, at: TimeStep) -> Array:
        return transform.apply(params.transform, q, at.state, policies.has_choice(at.avail))

    def step(params: Utilities, carry: Any, at: TimeStep) -> tuple[Array, Array, Any]:
        q, features, carry = agent.step(params.agent, carry, at)
        return apply(params, q, at), features, carry

    def unroll(params: Utilities, at: TimeStep) -> tuple[Array, Array]:
        q, features = agent.unroll(params.agent, at)
        return apply(params, q, at), features

    return agent._replace(init=init, step=step, unroll=unroll)


def halved(error: Array, td_error: Array) -> Array:
    """1/2 where Q_tot lies between sum_i f_i and y, else 1; error = sum_i f_i - Q_tot, td_error = Q_tot - y, [T, B]."""
    return jnp.where((error < 0) == (td_error < 0), 0.5, 1.0)


def make(
    spec: EnvSpec,
    agent: Agent,
    mixer: Mixer,
    opt: Opt,
    temperature: Temperature,
    bootstrap_on_timeout: bool,
    entropy: str,
    hypernet_dim: int,
    width: int,
    half_weights: bool,
) -> Algorithm:
    """The rule: ME-IGM on transformed utilities, with policies by the online OPT."""
    g = make_two_layer(spec, hypernet_dim, width, residual=True, mask_dead=False)
    parts = me_igm.Parts(
        transformed(agent, g),
        mixer,
        opt,
        temperature,
        sampled_entropy=entropy == "sampled",
        bootstrap_on_timeout=bootstrap_on_timeout,
        online_opt=True,
        weigh=halved if half_weights else None,
    )
    return me_igm.algorithm(parts)
