"""How our arrays are compared with those of a golden file: to 1e-9 in float64."""

import jax
import jax.numpy as jnp
import numpy as np


def agree(ours, theirs, what=""):
    """Time-major ours [T, B, ...] against batch-major theirs [B, T, ...]."""
    same(np.swapaxes(np.asarray(ours), 0, 1), theirs, what)


def same(ours, theirs, what=""):
    ours = np.asarray(ours)
    assert ours.dtype == theirs.dtype or ours.dtype.kind != "f", f"{what}: {ours.dtype}"
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=what)


def check_gradients(scalar, golden, inputs):
    """`scalar(params, inputs)`, its value and its gradient in every parameter and in the inputs, by torch name."""
    given = {name: jnp.asarray(golden.given[name]) for name in inputs}
    value, (d_param, d_given) = jax.value_and_grad(scalar, argnums=(0, 1))(golden.param, given)
    same(value, golden.out["scalar"], "scalar")
    ours = d_param | d_given
    assert ours.keys() >= golden.grad.keys()
    for name, gradient in golden.grad.items():
        same(ours[name], gradient, f"gradient of {name}")
