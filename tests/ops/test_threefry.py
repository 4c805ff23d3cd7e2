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


def test_other_peoples_code_draws_the_same():
    def draw(key):
        k_uniform, k_normal, k_choice, k_more = jax.random.split(key, 4)
        folded = jax.random.fold_in(k_more, 5)
        return (
            jax.random.uniform(k_uniform, (3, 5), minval=-2.0),
            jax.random.normal(k_normal, (7,)),
            jax.random.categorical(k_choice, jnp.log(jnp.array([0.1, 0.9])), shape=(20,)),
            jax.random.randint(folded, (4,), 0, 1000),
            jax.random.permutation(k_more, 9),
            jax.random.bits(k_more, (3,), "uint8"),
        )

    keys = jax.random.split(jax.random.key(1), 4)
    found = jax.vmap(lambda key: draw(threefry.fused(key)))(keys)
    for x, y in zip(found, jax.vmap(draw)(keys), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
