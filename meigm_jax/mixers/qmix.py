"""QMIX: a monotone mixing network whose weights come from the state (arXiv 1803.11485)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from meigm_jax.mixers.common import from_module
from meigm_jax.modules.layers import Hypernet, Linear
from meigm_jax.types import Array, EnvSpec, Mixer


class QMix(nn.Module):
    """Q_tot = elu(q |W1(s)| + b1(s)) |w2(s)| + b2(s), non-decreasing in every q_i."""

    num_agents: int
    embed_dim: int
    hypernet_dim: int
    value_dim: int  # hidden width of b2: embed_dim in pymarl2, hypernet_dim in the ME-QMIX code
    mask_dead: bool  # agents without a choice do not reach the mixture
    hypernet_layers: int = 2  # of the two mixing weights, 1 or 2

    @nn.compact
    def __call__(self, q: Array, state: Array, alive: Array) -> Array:
        """q [..., N], state [..., G], alive bool[..., N] -> Q_tot [...]."""
        size = self.num_agents * self.embed_dim
        w1 = jnp.abs(Hypernet(size, self.hypernet_dim, self.hypernet_layers, name="w1")(state))
        b1 = Linear(self.embed_dim, name="b1")(state)
        w2 = jnp.abs(Hypernet(self.embed_dim, self.hypernet_dim, self.hypernet_layers, name="w2")(state))
        b2 = Hypernet(1, self.value_dim, name="b2")(state).squeeze(-1)
        if self.mask_dead:
            q = jnp.where(alive, q, 0.0)
        # Agent by agent: as a sum over an axis of few agents it takes three times as long on the CPU.
        of_agents = jnp.split(w1, self.num_agents, axis=-1)
        hidden = nn.elu(sum((q[..., i, None] * w for i, w in enumerate(of_agents)), b1))
        return jnp.sum(hidden * w2, axis=-1) + b2


def make(
    spec: EnvSpec, embed_dim: int, hypernet_dim: int, value_dim: int, mask_dead: bool, hypernet_layers: int = 2
) -> Mixer:
    """The monotone mixer with embed_dim hidden units."""
    module = QMix(spec.num_agents, embed_dim, hypernet_dim, value_dim, mask_dead, hypernet_layers)
    return from_module(spec, module, lambda x: (x.q_taken, x.state, x.alive))
