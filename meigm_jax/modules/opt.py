"""The order-preserving transformation (OPT) f_i(q_i; s) and what it is compared with (paper, eq. 2)."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax.numpy as jnp

from meigm_jax.modules.layers import Hypernet, Linear, initial, run
from meigm_jax.types import Array, EnvSpec, Opt, Params


class Affine(nn.Module):
    """f_i(x; s) = |w_i(s)| x + b_i(s), the form behind the paper's SMAC-v2 results."""

    num_agents: int
    hypernet_dim: int

    @nn.compact
    def __call__(self, q: Array, state: Array) -> Array:
        """q [..., N, A], state [..., G] -> [..., N, A]."""
        w = jnp.abs(Hypernet(self.num_agents, self.hypernet_dim, name="w")(state))
        b = Hypernet(self.num_agents, self.hypernet_dim, name="b")(state)
        return w[..., None] * q + b[..., None]


class TwoLayer(nn.Module):
    """f_i(x; s) = sum_k |u_ik(s)| elu(|w_ik(s)| x + c_ik(s)) + b_i(s) (+ x), non-decreasing in x.

    With monotone=False the absolute values go: the hypernet-generated MLP of the paper's Table 4, not order preserving.
    """

    num_agents: int
    hypernet_dim: int
    width: int
    residual: bool
    monotone: bool

    @nn.compact
    def __call__(self, q: Array, state: Array) -> Array:
        """q [..., N, A], state [..., G] -> [..., N, A]."""
        size = self.width * self.num_agents
        w = self._split(Hypernet(size, self.hypernet_dim, name="w")(state))
        c = self._split(Linear(size, name="c")(state))
        u = self._split(Hypernet(size, self.hypernet_dim, name="u")(state))
        b = Hypernet(self.num_agents, self.hypernet_dim, name="b")(state)
        if self.monotone:
            w, u = jnp.abs(w), jnp.abs(u)
        hidden = nn.elu(w[..., None] * q[..., None, :, :] + c[..., None])  # [..., K, N, A]
        out = jnp.sum(u[..., None] * hidden, axis=-3) + b[..., None]
        return out + q if self.residual else out

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.width, self.num_agents)


def _opt(spec: EnvSpec, module: nn.Module, mask_dead: bool) -> Opt:
    def init(key: Array) -> Params:
        return initial(module, key, jnp.zeros((spec.num_agents, 1)), jnp.zeros((spec.state_dim,)))

    def apply(params: Params, q: Array, state: Array, alive: Array) -> Array:
        chex.assert_shape(q, (*state.shape[:-1], spec.num_agents, None))
        out = run(module, params, q, state)
        return jnp.where(alive[..., None], out, 0.0) if mask_dead else out

    return Opt(init, apply)


def make_affine(spec: EnvSpec, hypernet_dim: int, mask_dead: bool) -> Opt:
    """The affine OPT; with mask_dead, agents without a choice give 0."""
    return _opt(spec, Affine(spec.num_agents, hypernet_dim), mask_dead)


def make_two_layer(spec: EnvSpec, hypernet_dim: int, width: int, residual: bool, mask_dead: bool) -> Opt:
    """The general two-layer OPT of eq. (2) with K = width; the residual keeps the order where elu saturates."""
    return _opt(spec, TwoLayer(spec.num_agents, hypernet_dim, width, residual, monotone=True), mask_dead)


def make_mlp(spec: EnvSpec, hypernet_dim: int, width: int, mask_dead: bool) -> Opt:
    """The ablation of Table 4: the same two layers without sign constraint."""
    return _opt(spec, TwoLayer(spec.num_agents, hypernet_dim, width, residual=False, monotone=False), mask_dead)


def make_identity(spec: EnvSpec) -> Opt:
    """f = identity: the '+Entropy' ablation of Table 3."""
    return Opt(lambda key: {}, lambda params, q, state, alive: q)
