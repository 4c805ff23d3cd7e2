"""QPLEX: a duplex dueling network that reaches every joint value that IGM allows (arXiv 2008.01062)."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from meigm_jax.mixers.common import from_module
from meigm_jax.modules.layers import Hypernet, uniform_fan_in
from meigm_jax.types import Array, EnvSpec, Mixer, MixInput

POSITIVE = 1e-10  # keeps weights above zero


class Kernels(nn.Module):
    """K networks side by side, Linear layers with ReLU between them: x [..., D] -> [..., K, features]."""

    num_kernels: int
    features: int
    layers: int
    hidden_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [..., D] -> [..., num_kernels, features]."""
        sizes = [x.shape[-1], *[self.hidden_dim] * (self.layers - 1), self.features]
        x = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], self.num_kernels, x.shape[-1]))
        for number, (fan_in, size) in enumerate(itertools.pairwise(sizes)):
            init = uniform_fan_in(fan_in)
            kernel = self.param(f"kernel_{number}", init, (self.num_kernels, fan_in, size))
            bias = self.param(f"bias_{number}", init, (self.num_kernels, size))
            x = jnp.einsum("...kd,kdf->...kf", nn.relu(x) if number else x, kernel) + bias
        return x


class QPlex(nn.Module):
    """Q_tot = sum_i Q'_i + sum_i (lambda_i(s, a) - 1) A'_i, with Q'_i = w_i(s) q_i + b_i(s) and A'_i = Q'_i - max Q'_i.

    The gradient does not flow through A' (as in the authors' code): utilities learn by dQ_tot/dq_i = w_i.
    """

    spec: EnvSpec
    hypernet_dim: int
    num_kernels: int
    kernel_dim: int
    layers: int
    weighted_head: bool

    @nn.compact
    def __call__(self, x: MixInput) -> Array:
        """Q_tot [...] of what a mixer may read, any leading axes."""
        agents, q, best = self.spec.num_agents, x.q_taken, x.q_max
        if self.weighted_head:
            w = jnp.abs(Hypernet(agents, self.hypernet_dim, name="w")(x.state)) + POSITIVE
            b = Hypernet(agents, self.hypernet_dim, name="b")(x.state)
            q, best = w * q + b, w * best + b
        advantage = jax.lax.stop_gradient(q - best)
        return jnp.sum(q, axis=-1) + jnp.sum((self.importance(x.state, x.action) - 1.0) * advantage, axis=-1)

    def importance(self, state: Array, action: Array) -> Array:
        """lambda_i(s, a) > 0 [..., N]: how much an agent's advantage counts, given what all of them do."""

        def kernels(features: int, name: str) -> Kernels:
            return Kernels(self.num_kernels, features, self.layers, self.kernel_dim, name=name)

        joint = jax.nn.one_hot(action, self.spec.num_actions, dtype=state.dtype)
        joint = jnp.concatenate([state, joint.reshape(*joint.shape[:-2], -1)], axis=-1)
        key = jnp.abs(kernels(1, "key")(state)) + POSITIVE
        of_agents = nn.sigmoid(kernels(self.spec.num_agents, "agents")(state))
        of_actions = nn.sigmoid(kernels(self.spec.num_agents, "actions")(joint))
        return jnp.sum(key * of_agents * of_actions, axis=-2)


def make(
    spec: EnvSpec, hypernet_dim: int, num_kernels: int, kernel_dim: int, layers: int, weighted_head: bool
) -> Mixer:
    """The duplex dueling mixer; `layers` Linear layers, kernel_dim wide, in each of its `num_kernels` kernels."""
    module = QPlex(spec, hypernet_dim, num_kernels, kernel_dim, layers, weighted_head)
    return from_module(spec, module, lambda x: (x,))
