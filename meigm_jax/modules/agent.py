"""Agents: local utilities q_i(tau_i, .), parameters shared over agents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.modules import gru
from meigm_jax.modules.layers import Linear, dense, initial, run, uniform_fan_in
from meigm_jax.registry import ConfigError
from meigm_jax.types import Agent, Array, EnvSpec, Params, TimeStep


class Encoder(nn.Module):
    """Linear layer on [observation, one-hot last action (zeros at an episode's start), one-hot agent id].

    The bias is part of the ids' rows: one product, and nothing to add to it.
    """

    spec: EnvSpec
    features: int

    @nn.compact
    def __call__(self, obs: Array, last_action: Array) -> Array:
        """obs [..., N, O], last_action i32[..., N] (-1: none) -> [..., N, features]."""
        chex.assert_shape(obs, (..., self.spec.num_agents, self.spec.obs_dim))
        sizes = (self.spec.obs_dim, self.spec.num_actions, self.spec.num_agents)
        init = uniform_fan_in(sum(sizes))
        kernel = self.param("kernel", init, (sum(sizes), self.features))
        bias = self.param("bias", init, (self.features,))
        others, for_id = jnp.split(kernel, [sum(sizes[:2])])
        last = jax.nn.one_hot(last_action, sizes[1], dtype=obs.dtype)
        own_id = jnp.broadcast_to(jnp.eye(sizes[2], dtype=obs.dtype), (*obs.shape[:-1], sizes[2]))
        inputs = jnp.concatenate([obs, last, own_id], axis=-1)
        return dense(inputs, jnp.concatenate([others, for_id + bias]))


class GRUUtility(nn.Module):
    """Linear, ReLU, GRU, Linear (paper, appendix; the authors' n_rnn_agent)."""

    spec: EnvSpec
    hidden_dim: int

    def setup(self) -> None:
        size = self.hidden_dim
        init = uniform_fan_in(size)
        self.encode = Encoder(self.spec, size)
        self.input_r, self.input_z, self.input_n = Linear(size), Linear(size), Linear(size)
        self.kernel = gru.Gates(*(self.param(f"hidden_{gate}", init, (size, size)) for gate in "rzn"))
        self.bias_n = self.param("hidden_bias_n", init, (size,))
        self.head = Linear(self.spec.num_actions)

    def project(self, at: TimeStep) -> gru.Gates:
        """Time steps to the gates' input projections, [..., N, H] each."""
        x = nn.relu(self.encode(at.obs, at.last_action))
        return gru.Gates(self.input_r(x), self.input_z(x), self.input_n(x))

    def step(self, at: TimeStep, h: Array) -> tuple[Array, Array]:
        """One time step [E] and its memory h [E, N, H] -> (q [E, N, A], new h)."""
        h, _ = gru.cell(gru.Recurrent(self.kernel, self.bias_n), self.project(at), h)
        return self.head(h), h

    def __call__(self, at: TimeStep) -> tuple[Array, Array]:
        """A sequence [T, B] -> (q [T, B, N, A], h [T, B, N, H])."""
        time, batch, agents, _ = at.obs.shape
        gates = gru.Gates(*(g.reshape(time, batch * agents, self.hidden_dim) for g in self.project(at)))
        keep = jnp.repeat(1.0 - at.first.astype(at.obs.dtype), agents, axis=1)[..., None]
        h = gru.unroll(gru.Recurrent(self.kernel, self.bias_n), gates, keep)
        h = h.reshape(time, batch, agents, self.hidden_dim)
        return self.head(h), h


class MLPUtility(nn.Module):
    """Linear, ReLU, Linear, ReLU, Linear: no memory, for observations that tell everything."""

    spec: EnvSpec
    hidden_dim: int

    @nn.compact
    def __call__(self, at: TimeStep) -> tuple[Array, Array]:
        """Time steps [...] -> (q [..., N, A], features [..., N, H])."""
        x = nn.relu(Encoder(self.spec, self.hidden_dim, name="encode")(at.obs, at.last_action))
        features = nn.relu(Linear(self.hidden_dim, name="hidden")(x))
        return Linear(self.spec.num_actions, name="head")(features), features


class CNNUtility(nn.Module):
    """Two 3 x 3 convolutions with ReLU, then Linear, ReLU, Linear; no memory. For observations that are images."""

    spec: EnvSpec
    hidden_dim: int
    channels: int

    @nn.compact
    def __call__(self, at: TimeStep) -> tuple[Array, Array]:
        """Time steps [...] -> (q [..., N, A], features [..., N, H])."""
        height, width, depth = self.spec.obs_shape
        x = at.obs.reshape(-1, height, width, depth)
        for number, fan_in in enumerate((9 * depth, 9 * self.channels)):
            init = uniform_fan_in(fan_in)
            x = nn.relu(nn.Conv(self.channels, (3, 3), kernel_init=init, bias_init=init, name=f"conv_{number}")(x))
        seen = self.spec._replace(obs_dim=height * width * self.channels)
        x = x.reshape(*at.obs.shape[:-1], seen.obs_dim)
        features = nn.relu(Encoder(seen, self.hidden_dim, name="encode")(x, at.last_action))
        return Linear(self.spec.num_actions, name="head")(features), features


def make_gru(spec: EnvSpec, hidden_dim: int) -> Agent:
    """A recurrent agent with hidden size H = hidden_dim."""
    module = GRUUtility(spec, hidden_dim)

    def init_carry(num_envs: int) -> Array:
        return jnp.zeros((num_envs, spec.num_agents, hidden_dim))

    def step(params: Params, carry: Array, at: TimeStep) -> tuple[Array, Array, Array]:
        q, h = run(module, params, at, jnp.where(at.first[:, None, None], 0.0, carry), method="step")
        return q, h, h

    return Agent(_init(module, spec), init_carry, step, partial(run, module), _head(spec), hidden_dim)


def make_mlp(spec: EnvSpec, hidden_dim: int) -> Agent:
    """An agent without memory, hidden size H = hidden_dim."""
    return _feedforward(MLPUtility(spec, hidden_dim), spec, hidden_dim)


def make_cnn(spec: EnvSpec, hidden_dim: int, channels: int) -> Agent:
    """An agent without memory that sees images. Raises ConfigError where observations have no height and width."""
    if len(spec.obs_shape) != 3:
        raise ConfigError(
            f"algo.agent.name: cnn needs observations of height x width x channels, {spec.name} has vectors of "
            f"{spec.obs_dim}; choose gru or mlp"
        )
    return _feedforward(CNNUtility(spec, hidden_dim, channels), spec, hidden_dim)


def _feedforward(module: nn.Module, spec: EnvSpec, hidden_dim: int) -> Agent:
    """The agent of a module that maps time steps, whatever their leading axes; its memory is empty."""

    def step(params: Params, carry: tuple[()], at: TimeStep) -> tuple[Array, Array, tuple[()]]:
        return *run(module, params, at), carry

    return Agent(_init(module, spec), lambda num_envs: (), step, partial(run, module), _head(spec), hidden_dim)


def _head(spec: EnvSpec) -> Callable[[Params, Array], Array]:
    """params of any agent here, features [..., H] -> q [..., A]."""
    layer = Linear(spec.num_actions)
    return lambda params, features: run(layer, {"params": params["params"]["head"]}, features)


def _init(module: nn.Module, spec: EnvSpec) -> Callable[[Array], Params]:
    """key -> the parameters of an agent's module."""
    agents = (1, 1, spec.num_agents)

    def init(key: Array) -> Params:
        nothing = TimeStep(
            obs=jnp.zeros((*agents, spec.obs_dim)),
            state=jnp.zeros((1, 1, spec.state_dim)),
            avail=jnp.ones((*agents, spec.num_actions), bool),
            first=jnp.ones((1, 1), bool),
            last_action=jnp.full(agents, -1),
        )
        return initial(module, key, nothing)

    return init
