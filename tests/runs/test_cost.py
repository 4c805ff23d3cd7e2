"""Counting the operations of programs whose work is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.modules import gru_kernel
from meigm_jax.runs.cost import FLOPS_PER_ELEMENT, GPU_FLOPS, GPU_KERNEL_SECONDS, Rates, Work, measure, work_of

X, W = jax.ShapeDtypeStruct((5, 3), jnp.float32), jax.ShapeDtypeStruct((3, 4), jnp.float32)
PRODUCT = 2 * 5 * 3 * 4  # one multiplication and one addition each


def product(x, w):
    return x @ w


def looped(x, w):
    return jax.lax.scan(lambda carry, _: (carry, jnp.tanh(carry @ w)), x, length=7)[1]


def branched(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w) @ (w.T @ w))


def searched(x, w):
    return jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ w @ w.T, x)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (product, PRODUCT),
        (jax.jit(product), PRODUCT),
        (jax.checkpoint(product), PRODUCT),
        (jax.vmap(product, in_axes=(0, None)), PRODUCT),
        (looped, 7 * PRODUCT),
        (branched, PRODUCT + 2 * 4 * 3 * 4 + 2 * 5 * 4 * 4),
        (searched, 2 * PRODUCT),
        (lambda x, w: jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w), 2 * PRODUCT),
    ],
)
def test_products_are_counted(function, flops):
    assert work_of(function, X, W).flops == flops


def test_convolutions_are_products():
    image, kernel = jnp.zeros((2, 8, 9, 3)), jnp.zeros((3, 3, 3, 4))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert work_of(convolve, image, kernel).flops == 2 * (2 * 6 * 7 * 4) * (3 * 3 * 3)


def test_other_operations_count_what_they_write():
    assert work_of(lambda x: jnp.tanh(x) + x, X) == Work(0, 30, 0)
    assert work_of(looped, X, W).elements == 7 * 20
    ring, row = jnp.zeros((100, 3)), jnp.zeros((2, 3))
    written = work_of(lambda ring, row: jax.lax.dynamic_update_slice(ring, row, (4, 0)), ring, row)
    assert written.elements == 6


def test_kernels_are_what_is_not_fused():
    assert work_of(lambda x, w: jnp.argmax(jnp.sort(x @ w).sum(1)), X, W).kernels == 4
    assert work_of(looped, X, W).kernels == 7


def test_seconds_are_those_of_the_slower_of_work_and_overhead():
    rates = Rates(flops=1000.0, kernel_seconds=0.5)
    busy = Work(flops=1000.0, elements=3000.0 / FLOPS_PER_ELEMENT)
    assert rates.seconds(busy, 3, in_turn=True) == rates.seconds(busy, 3, in_turn=False) == 12.0
    small = Work(flops=1000.0, kernels=4)
    assert rates.seconds(small, 3, in_turn=True) == 6.0


def test_members_of_one_program_share_its_overhead():
    rates = Rates(flops=1000.0, kernel_seconds=0.5)
    assert rates.seconds(Work(flops=1000.0, kernels=4), 3, in_turn=False) == 3 * 1.0 + 2.0


def test_a_kernel_of_ours_counts_its_rows_once_and_what_all_its_programs_do(monkeypatch):
    rows, sequences, hidden = 7, 20, 16  # two programs of 16 sequences
    kernel, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((hidden, hidden), (rows, sequences, hidden)))
    bias, keep = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((hidden,), (rows, sequences)))
    work = work_of(gru_kernel.forward, (kernel,) * 3, bias, (x,) * 3, keep)
    assert work.flops == 2 * rows * 3 * (2 * 16 * hidden * hidden)
    assert work.kernels == rows


def test_a_gpu_is_not_measured(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert measure() == Rates(GPU_FLOPS, GPU_KERNEL_SECONDS)


def test_the_machine_is_measured():
    rates = measure()
    assert 1e8 < rates.flops < 1e15 and 1e-9 < rates.kernel_seconds < 1e-3
    x = jnp.asarray(np.ones((256, 256), np.float32))
    assert rates.seconds(work_of(lambda x: x @ x, x), 1, in_turn=True) > 0
