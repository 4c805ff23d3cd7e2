"""Qatten: utilities weighed by attention from the state to each agent's own part of it (arXiv 2002.03939)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.mixers.common import from_module
from meigm_jax.modules.layers import Hypernet, Linear
from meigm_jax.types import Array, EnvSpec, Mixer


class Qatten(nn.Module):
    """Q_tot = c(s) + sum_h w_h(s) sum_i lambda_ih q_i, with lambda_.h = softmax_i(e_h(s) . k_h(u_i) / sqrt(D))."""

    num_heads: int
    embed_dim: int  # D
    hypernet_dim: int
    value_dim: int
    weighted: bool  # heads have weights |w_h(s)|, else all weigh 1

    @nn.compact
    def __call__(self, q: Array, state: Array, units: Array) -> Array:
        """q [..., N], state [..., G], each agent's own features u [..., N, U] -> Q_tot [...]."""
        value = Hypernet(1, self.value_dim, name="value")(state).squeeze(-1)
        heads = []
        for head in range(self.num_heads):
            query = Hypernet(self.embed_dim, self.hypernet_dim, name=f"query_{head}")(state)
            key = Linear(self.embed_dim, name=f"key_{head}")(units)
            scores = jnp.sum(query[..., None, :] * key, axis=-1) / math.sqrt(self.embed_dim)
            heads.append(jnp.sum(nn.softmax(scores, axis=-1) * q, axis=-1))
        mixed = jnp.stack(heads, axis=-1)
        if self.weighted:
            mixed = mixed * jnp.abs(Hypernet(self.num_heads, self.hypernet_dim, name="head")(state))
        return jnp.sum(mixed, axis=-1) + value


def make(spec: EnvSpec, num_heads: int, embed_dim: int, hypernet_dim: int, value_dim: int, weighted: bool) -> Mixer:
    """The attention mixer; where the state has no part that is an agent's own, its id stands for it."""
    module = Qatten(num_heads, embed_dim, hypernet_dim, value_dim, weighted)
    agents, size = spec.num_agents, spec.unit_dim

    def units(state: Array) -> Array:
        if not size:
            return jnp.broadcast_to(jnp.eye(agents, dtype=state.dtype), (*state.shape[:-1], agents, agents))
        own = state[..., : agents * size].reshape(*state.shape[:-1], agents, size)
        return jax.lax.stop_gradient(own)  # as in the authors' code

    return from_module(spec, module, lambda x: (x.q_taken, x.state, units(x.state)))
