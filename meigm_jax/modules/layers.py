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
from flax import struct

from meigm_jax.types import Array, Params


class FanIn(struct.PyTreeNode, nn.meta.AxisMetadata[Array]):
    """A parameter drawn by `uniform_fan_in`, with the bound that it was drawn from. Modules see the parameter alone."""

    value: Array
    bound: float = struct.field(pytree_node=False)

    def unbox(self) -> Array:
        return self.value

    def replace_boxed(self, val: Any) -> Any:
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> FanIn:
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> FanIn:
        return self


def uniform_fan_in(fan_in: int) -> Callable[..., Any]:
    """The initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default; a module gets an Array from it."""
    bound = 1.0 / math.sqrt(fan_in)

    def draw(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike | None = None) -> FanIn:
        return FanIn(jax.random.uniform(key, shape, dtype or float, -bound, bound), bound)

    return draw


def initial(module: nn.Module, key: Array, *inputs: Any) -> Params:
    """Initial parameters of a module; all that are `uniform_fan_in` by one draw, for each takes long to compile."""

    def is_fan_in(x: Any) -> bool:
        return isinstance(x, FanIn)

    leaves, tree = jax.tree.flatten(jax.eval_shape(module.init, key, *inputs), is_leaf=is_fan_in)
    if not all(map(is_fan_in, leaves)):
        leaves = jax.tree.leaves(module.init(key, *inputs), is_leaf=is_fan_in)
    fan_ins = [leaf for leaf in leaves if is_fan_in(leaf)]
    ends = np.cumsum([leaf.value.size for leaf in fan_ins], dtype=int)
    drawn = jax.random.uniform(key, (ends[-1] if fan_ins else 0,), minval=-1.0, maxval=1.0)
    parts = iter(jnp.split(drawn, ends[:-1]))
    return tree.unflatten([x.bound * next(parts).reshape(x.value.shape) if is_fan_in(x) else x for x in leaves])


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
