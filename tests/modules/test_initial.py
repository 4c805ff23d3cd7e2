"""Initial parameters: PyTorch's default for what is ours, and flax's own for whatever else a module has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.modules.layers import MLP, initial, run


class Normalised(nn.Module):
    """A Linear layer of ours, and layers of flax."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, kernel_init=nn.initializers.constant(3.0))(nn.LayerNorm()(MLP(64, 0, 1)(x)))


@pytest.mark.parametrize("draw", [initial, lambda module, *inputs: nn.unbox(module.init(*inputs))])
def test_ours_are_uniform_within_one_over_the_root_of_fan_in(draw):
    first, second = (draw(MLP(256, 16, 2), jax.random.key(seed), jnp.zeros(100))["params"] for seed in (0, 1))
    for layer, fan_in in (("hidden_0", 100), ("out", 16)):
        kernel = np.asarray(first[layer]["kernel"]) * np.sqrt(fan_in)
        assert kernel.shape[0] == fan_in
        np.testing.assert_allclose([kernel.min(), kernel.mean(), kernel.max()], [-1, 0, 1], atol=0.06)
        np.testing.assert_allclose(kernel.var(), 1 / 3, atol=0.03)
        assert len(np.unique(first[layer]["bias"])) == first[layer]["bias"].size
        assert np.mean(first[layer]["kernel"] == second[layer]["kernel"]) < 0.01


def test_layers_of_flax_keep_their_own():
    module, x = Normalised(), jnp.arange(5.0)
    params = initial(module, jax.random.key(0), x)
    np.testing.assert_array_equal(params["params"]["LayerNorm_0"]["scale"], 1.0)
    np.testing.assert_array_equal(params["params"]["LayerNorm_0"]["bias"], 0.0)
    np.testing.assert_array_equal(params["params"]["Dense_0"]["kernel"], 3.0)
    kernel = np.asarray(params["params"]["MLP_0"]["out"]["kernel"])
    assert 0.4 < np.abs(kernel).max() * np.sqrt(5) < 1 and len(np.unique(kernel)) == kernel.size
    assert run(module, params, x).shape == (1,)


def test_a_module_without_parameters():
    assert initial(nn.Dropout(0.5, deterministic=True), jax.random.key(0), jnp.zeros(3)) == {}
