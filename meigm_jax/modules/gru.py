"""A GRU over sequences that hold several episodes, with a hand-written backward pass.

Input projections are made outside the time scan, the three gates are separate products (a fused one is no faster on the
CPU), and weight gradients are one product over all rows after the backward scan. Where it is differentiated, the scans
write over what they have read. On a GPU they are kernels of their own, `gru_kernel`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.modules.layers import outer
from meigm_jax.types import Array


class Gates(NamedTuple):
    """One array per gate: reset, update, candidate."""

    r: Array
    z: Array
    n: Array


class Recurrent(NamedTuple):
    """Hidden-to-hidden parameters: kernels [H, H] per gate and the candidate's inner bias [H]."""

    kernel: Gates
    bias_n: Array


def cell(recurrent: Recurrent, x: Gates, h: Array) -> tuple[Array, tuple[Array, ...]]:
    """One step of PyTorch's GRUCell. x: input projections [..., H], h [..., H] -> (new h, what backward needs)."""
    r = jax.nn.sigmoid(x.r + h @ recurrent.kernel.r)
    z = jax.nn.sigmoid(x.z + h @ recurrent.kernel.z)
    inner = h @ recurrent.kernel.n + recurrent.bias_n
    n = jnp.tanh(x.n + r * inner)
    return (1.0 - z) * n + z * h, (h, r, z, n, inner)


def cell_backward(kernel_t: Gates, saved: tuple[Array, ...], d_h: Array) -> tuple[Array, tuple[Array, ...]]:
    """Gradients of `cell` by the old h and by its sums: transposed kernels, saved, d_h -> (d_h, (r, z, n, inner))."""
    h, r, z, n, inner = saved
    d_n = d_h * (1.0 - z) * (1.0 - n * n)
    d_z = d_h * (h - n) * z * (1.0 - z)
    d_r = d_n * inner * r * (1.0 - r)
    d_inner = d_n * r
    d_prev = d_h * z + d_r @ kernel_t.r + d_z @ kernel_t.z + d_inner @ kernel_t.n
    return d_prev, (d_r, d_z, d_n, d_inner)


@jax.custom_vjp
def unroll(recurrent: Recurrent, x: Gates, keep: Array) -> Array:
    """Hidden states after each row, from the zero state.

    Args:
        recurrent: hidden-to-hidden parameters.
        x: input projections, biases included, [T, R, H] per gate.
        keep: f32[T, R, 1], 0 where an episode starts (the state is cleared before the row is read), else 1.

    Returns:
        [T, R, H].
    """
    if kernels := _kernels_for(x.r):
        return kernels.forward(recurrent.kernel, recurrent.bias_n, x, keep[..., 0])[0]

    # Not the loop of `_forward`: XLA could not leave out what that writes for the backward pass.
    def step(h: Array, row: tuple[Gates, Array]) -> tuple[Array, Array]:
        h, _ = cell(recurrent, row[0], h * row[1])
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x.r[0]), (x, keep))[1]


def _kernels_for(x: Array) -> ModuleType | None:
    """The GPU's own kernels, where they can walk sequences such as x [T, R, H]."""
    if jax.default_backend() != "gpu":
        return None
    from meigm_jax.modules import gru_kernel

    return gru_kernel if gru_kernel.fits(x.shape[-1], x.dtype) else None


def _row(t: Array, rows: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(rows, t, keepdims=False)


def _read(t: Array, arrays: Iterable[Array]) -> tuple[Array, ...]:
    """The row t of each, before any is written: else XLA copies whole arrays, to read from them afterwards."""
    return jax.lax.optimization_barrier(tuple(_row(t, x) for x in arrays))


def _written(t: Array, rows: Array, row: Array) -> Array:
    """`rows` with `row` at t. The loops' results take the place of what they have read."""
    return jax.lax.dynamic_update_index_in_dim(rows, row, t, 0)


def _forward(recurrent: Recurrent, x: Gates, keep: Array) -> tuple[Array, tuple]:
    if kernels := _kernels_for(x.r):
        hidden, *saved = kernels.forward(recurrent.kernel, recurrent.bias_n, x, keep[..., 0])
        return hidden, (recurrent, keep, tuple(saved))

    def step(t: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        h, hidden, *rows = carry
        h, (_, *saved) = cell(recurrent, Gates(*_read(t, rows[:3])), h * _row(t, keep))
        return h, _written(t, hidden, h), *map(partial(_written, t), rows, saved)

    empty = jnp.zeros_like(x.r)
    _, hidden, *saved = jax.lax.fori_loop(0, len(keep), step, (empty[0], empty, *x, empty))
    previous = jnp.concatenate([empty[:1], hidden[:-1]]) * keep
    return hidden, (recurrent, keep, (previous, *saved))


def _backward(residuals: tuple, d_hidden: Array) -> tuple[Recurrent, Gates, Array]:
    recurrent, keep, saved = residuals
    if kernels := _kernels_for(d_hidden):
        return _gradients(residuals, *kernels.backward(recurrent.kernel, keep[..., 0], saved, d_hidden))
    kernel_t = Gates(*(k.T for k in recurrent.kernel))
    previous, *saved = saved

    def step(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        t = len(keep) - 1 - i
        d_later, *rows = carry
        d_h = _row(t, d_hidden) + d_later
        d_prev, d_gates = cell_backward(kernel_t, (_row(t, previous), *_read(t, rows)), d_h)
        return d_prev * _row(t, keep), *map(partial(_written, t), rows, d_gates)

    _, *d_gates = jax.lax.fori_loop(0, len(keep), step, (jnp.zeros_like(d_hidden[0]), *saved))
    return _gradients(residuals, *d_gates)


def _gradients(residuals: tuple, d_r: Array, d_z: Array, d_n: Array, d_inner: Array) -> tuple[Recurrent, Gates, Array]:
    """Gradients by the parameters, from those by the gates, over all rows at once."""
    _, keep, (h, *_) = residuals
    d_kernel = Gates(*(outer(*(x.reshape(-1, x.shape[-1]) for x in (h, d))) for d in (d_r, d_z, d_inner)))
    return Recurrent(d_kernel, jnp.sum(d_inner, axis=(0, 1))), Gates(d_r, d_z, d_n), jnp.zeros_like(keep)


unroll.defvjp(_forward, _backward)
