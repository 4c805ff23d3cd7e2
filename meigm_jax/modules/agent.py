"""Agents: local utilities q_i(tau_i, .), parameters shared over agents."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.modules import gru
from meigm_jax.modules.layers import Linear, uniform_fan_in
from meigm_jax.types import Agent, Array, EnvSpec, Params, TimeStep


def agent_inputs(spec: EnvSpec, at: TimeStep) -> Array:
    """[observation, one-hot last action (zeros at an episode's start), one-hot agent id]: [..., N, O + A + N]."""
    chex.assert_shape(at.obs, (..., spec.num_agents, spec.obs_dim))
    last = jax.nn.one_hot(at.last_action, spec.num_actions, dtype=at.obs.dtype)
    ids = jnp.broadcast_to(jnp.eye(spec.num_agents, dtype=at.obs.dtype), (*at.obs.shape[:-1], spec.num_agents))
    return jnp.concatenate([at.obs, last, ids], axis=-1)


class GRUUtility(nn.Module):
    """Linear, ReLU, GRU, Linear (paper, appendix; the authors' n_rnn_agent)."""

    num_actions: int
    hidden_dim: int

    def setup(self) -> None:
        size = self.hidden_dim
        init = uniform_fan_in(size)
        self.encode = Linear(size)
        self.input_r, self.input_z, self.input_n = Linear(size), Linear(size), Linear(size)
        self.kernel = gru.Gates(*(self.param(f"hidden_{gate}", init, (size, size)) for gate in "rzn"))
        self.bias_n = self.param("hidden_bias_n", init, (size,))
        self.head = Linear(self.num_actions)

    def project(self, x: Array) -> gru.Gates:
        """Inputs [..., D] to the gates' input projections, [..., H] each."""
        x = nn.relu(self.encode(x))
        return gru.Gates(self.input_r(x), self.input_z(x), self.input_n(x))

    def step(self, x: Array, h: Array) -> tuple[Array, Array]:
        """One time step: x [..., D], h [..., H] -> (q [..., A], new h)."""
        h, _ = gru.cell(gru.Recurrent(self.kernel, self.bias_n), self.project(x), h)
        return self.head(h), h

    def __call__(self, x: Array, first: Array) -> tuple[Array, Array]:
        """A sequence: x [T, B, N, D], first bool[T, B] -> (q [T, B, N, A], h [T, B, N, H])."""
        time, batch, agents, _ = x.shape
        gates = gru.Gates(*(g.reshape(time, batch * agents, self.hidden_dim) for g in self.project(x)))
        keep = jnp.repeat(1.0 - first.astype(x.dtype), agents, axis=1)[..., None]
        h = gru.unroll(gru.Recurrent(self.kernel, self.bias_n), gates, keep)
        h = h.reshape(time, batch, agents, self.hidden_dim)
        return self.head(h), h


def make_gru(spec: EnvSpec, hidden_dim: int) -> Agent:
    """A recurrent agent with hidden size H = hidden_dim."""
    module = GRUUtility(spec.num_actions, hidden_dim)
    input_dim = spec.obs_dim + spec.num_actions + spec.num_agents

    def init(key: Array) -> Params:
        return module.init(key, jnp.zeros((1, 1, 1, input_dim)), jnp.ones((1, 1), bool))

    def init_carry(num_envs: int) -> Array:
        return jnp.zeros((num_envs, spec.num_agents, hidden_dim))

    def step(params: Params, carry: Array, at: TimeStep) -> tuple[Array, Array, Array]:
        h = jnp.where(at.first[:, None, None], 0.0, carry)
        q, h = module.apply(params, agent_inputs(spec, at), h, method="step")
        return q, h, h

    def unroll(params: Params, at: TimeStep) -> tuple[Array, Array]:
        return module.apply(params, agent_inputs(spec, at), at.first)

    return Agent(init, init_carry, step, unroll)
