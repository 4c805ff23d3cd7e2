"""A member split among devices: each shard has some of its environments and sequences, and all have its parameters.

These functions are collective inside `jax.shard_map` over the mesh axis `AXIS`. Elsewhere a member is a single shard,
and they change nothing. A split member draws the same random numbers as a whole one: each shard draws all and uses its
own. So both learn the same, up to the order of sums.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from meigm_jax.types import Array

AXIS = "shards"


def count() -> int:
    """Shards of the member that is being traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[AXIS] if AXIS in mesh.manual_axes else 1


def own(x: Array, axis: int = 0) -> Array:
    """The shard's slice of what all shards have, along an axis that they divide evenly."""
    if (shards := count()) == 1:
        return x
    size = x.shape[axis] // shards
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size, axis)


def gathered(tree: Any, axis: int = 0) -> Any:
    """The slices of all shards, in order, of every array of `tree`: the inverse of `own`."""
    if count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    plain = [x.astype(jnp.uint8) if x.dtype == bool else x for x in leaves]
    as_bytes = [jax.lax.bitcast_convert_type(x, jnp.uint8).ravel() for x in plain]
    parts = jax.lax.all_gather(jnp.concatenate(as_bytes), AXIS)  # each gather waits for all shards: one for all arrays
    ends = np.cumsum([x.size for x in as_bytes])
    joined = map(partial(_joined, axis), plain, jnp.split(parts, ends[:-1], axis=1))
    return structure.unflatten([x.astype(leaf.dtype) for x, leaf in zip(joined, leaves, strict=True)])


def _joined(axis: int, own_slice: Array, parts: Array) -> Array:
    """The slices of all shards from their bytes, u8[shards, bytes]."""
    shape, size = own_slice.shape, own_slice.dtype.itemsize
    slices = jax.lax.bitcast_convert_type(parts.reshape(-1, *shape, *([size] if size > 1 else [])), own_slice.dtype)
    return jnp.moveaxis(slices, 0, axis).reshape(*shape[:axis], -1, *shape[axis + 1 :])


def uniform(key: Array, shape: tuple[int, ...], axis: int) -> Array:
    """f32[shape] in [0, 1), the shard's slice of what a whole member draws; `shape` is the slice's."""
    whole = tuple(size * count() if i == axis else size for i, size in enumerate(shape))
    return own(jax.random.uniform(key, whole), axis)


def total(x: Array) -> Array:
    """The sum of x over the shards."""
    return x if count() == 1 else _total(x)


@jax.custom_vjp
def _total(x: Array) -> Array:
    return jax.lax.psum(x, AXIS)


# Every shard computes the same loss from totals. Differentiated is the sum of these losses; `mean` makes it one again.
_total.defvjp(lambda x: (_total(x), None), lambda _, cotangent: (cotangent * count(),))


def mean(gradients: Any) -> Any:
    """The gradients of a loss of totals, from those that each shard has."""
    if count() == 1:
        return gradients
    flat, unravel = ravel_pytree(gradients)  # a sum of many small arrays takes milliseconds
    return unravel(jax.lax.pmean(flat, AXIS))


def rounded_up(number: int) -> int:
    """The next multiple of the number of shards."""
    return -(-number // count()) * count()
