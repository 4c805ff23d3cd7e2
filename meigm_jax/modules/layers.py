"""Layers shared by agents, mixers and transformations, with PyTorch's default initialisation.

The references are PyTorch code: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases. Larger initial mixing
weights (flax's defaults) change learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.types import Array, Params


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """The bound of U(-1/sqrt(fan_in), 1/sqrt(fan_in)) in place of an initial value, for `initial`."""

    def bound(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike | None = None) -> Array:
        return jnp.full(shape, 1.0 / math.sqrt(fan_in), dtype)

    return bound


def initial(module: nn.Module, key: Array, *inputs: Any) -> Params:
    """Parameters of a module whose initialisers are `uniform_fan_in`, by one draw: each takes long to compile."""
    bounds, tree = jax.tree.flatten(module.init(jax.random.key(0), *inputs))
    ends = np.cumsum([bound.size for bound in bounds])
    drawn = jax.random.uniform(key, (ends[-1],), bounds[0].dtype, -1.0, 1.0)
    parts = jnp.split(drawn, ends[:-1])
    return tree.unflatten([bound * part.reshape(bound.shape) for bound, part in zip(bounds, parts, strict=True)])


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x [R, D] @ kernel [D, K] with a weight gradient that is fast on the CPU: `outer`."""
    return x @ kernel


def _product_backward(inputs: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    return d_out @ kernel.T, outer(x, d_out)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def outer(x: Array, y: Array) -> Array:
    """x^T y [D, K] of x [R, D] and y [R, K], R large: the weight gradient of a product.

    XLA's CPU product is fast with the narrower factor on the left. Where both are as wide, it is faster still with that
    one transposed in memory. The barriers keep XLA from undoing either.
    """
    if x.shape[1] > y.shape[1]:
        return jax.lax.optimization_barrier(outer(y, x)).T
    left = jax.lax.optimization_barrier(x.T) if x.shape[1] == y.shape[1] else x.T
    return left @ y


def dense(x: Array, kernel: Array) -> Array:
    """x [..., D] @ kernel [D, K], on two axes: weight gradients over several row axes are slow on the CPU."""
    return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def run(module: nn.Module, params: Params, *inputs: Any, method: str | None = None) -> Any:
    """`module.apply` for modules without mutable collections: the outputs alone, whatever flax's types say."""
    return module.apply(params, *inputs, method=method)


class Linear(nn.Module):
    """y = x W + b. x [..., D] -> [..., features]."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        return dense(x, kernel) + bias


class Hypernet(nn.Module):
    """Linear, ReLU, Linear: state [..., G] to weights [..., features] of another network (QMIX, arXiv 1803.11485).

    With layers=1 a single Linear.
    """

    features: int
    hidden_dim: int
    layers: int = 2

    @nn.compact
    def __call__(self, state: Array) -> Array:
        if self.layers > 1:
            state = nn.relu(Linear(self.hidden_dim, name="hidden")(state))
        return Linear(self.features, name="out")(state)


class MLP(nn.Module):
    """`layers` Linear layers with ReLU between them. x [..., D] -> [..., features]."""

    features: int
    hidden_dim: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for number in range(self.layers - 1):
            x = nn.relu(Linear(self.hidden_dim, name=f"hidden_{number}")(x))
        return Linear(self.features, name="out")(x)
