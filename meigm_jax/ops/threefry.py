"""jax.random's keys and uniform numbers as plain arithmetic that XLA fuses into one pass over the numbers.

On the CPU, jax.random compiles every call to a loop over whole arrays; where millions of keys are split to draw a
number or two from each, that takes longer than what they are drawn for. The hash is Threefry-2x32 with 20 rounds
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), used as jax.random does with its default settings.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np

from meigm_jax.types import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


class Words(NamedTuple):
    """The two words of a key, u32[...] each."""

    first: Array
    second: Array


def words(key: Array) -> Words:
    """The two words, u32[...] each, of jax.random keys [...]."""
    data = jax.random.key_data(key)
    return Words(data[..., 0], data[..., 1])


def split(key: Words, index: Array | int) -> Words:
    """The key number `index` of those that jax.random.split makes of `key`; both broadcast."""
    return _hash(key, jnp.asarray(index, jnp.uint32))


def uniform(key: Words) -> Array:
    """f32[...] in [0, 1): jax.random.uniform of each key."""
    bits = jnp.bitwise_xor(*_hash(key, jnp.uint32(0)))
    return jax.lax.bitcast_convert_type((bits >> 9) | np.uint32(0x3F800000), jnp.float32) - 1.0


@jax.jit  # called often and large: traced once for every shape, and lowered to one function
def _hash(key: Words, count: Array) -> Words:
    """Threefry of the 64-bit counter `count` < 2**32 under `key`."""
    injected = (*key, key.first ^ key.second ^ PARITY)
    x, y = key.first, count + key.second
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            x = x + y
            y = x ^ ((y << rotation) | (y >> (32 - rotation)))
        x = x + injected[(turn + 1) % 3]
        y = y + injected[(turn + 2) % 3] + np.uint32(turn + 1)
    return Words(x, y)


def fused(key: Array) -> Array:
    """`key` for other people's code: jax.random gives the same numbers, by less to compile."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=FUSED)


def _counters(shape: tuple[int, ...]) -> Array:
    return jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    keys = jnp.stack(_hash(Words(key[0], key[1]), _counters(shape)), axis=-1)
    return jax.lax.optimization_barrier(keys)  # else made again for all that comes of them


def _random_bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    first, second = _hash(Words(key[0], key[1]), _counters(shape))
    if width == 64:
        return (first.astype(jnp.uint64) << 32) | second
    return (first ^ second).astype(f"uint{width}")


def _fold_in(key: Array, data: int | Array) -> Array:
    return jnp.stack(_hash(Words(key[0], key[1]), jnp.asarray(data, jnp.uint32)))


FUSED = jex.random.define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jnp.stack([jnp.uint32(0), jnp.asarray(seed, jnp.uint32)]),
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="fused_threefry2x32",
    tag="ffry",
)
