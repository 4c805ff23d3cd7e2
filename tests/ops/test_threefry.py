"""The fused random numbers against jax.random."""

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.ops import threefry


def test_keys_and_numbers_are_those_of_jax_random():
    keys = jax.random.split(jax.random.key(7), (3, 50))
    found = threefry.split(threefry.Words(*(w[..., None] for w in threefry.words(keys))), jnp.arange(11))
    expected = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 11)))(keys)
    np.testing.assert_array_equal(jnp.stack(found, -1), jax.random.key_data(expected))
    drawn = jax.vmap(jax.vmap(jax.vmap(jax.random.uniform)))(expected)
    np.testing.assert_array_equal(threefry.uniform(found), drawn)
    assert 0 <= drawn.min() < 0.01 and 0.99 < drawn.max() < 1
