"""The GRU of `gru.py` as two GPU kernels, one forward, one backward, that hold the hidden state in registers.

As a scan over time every row is half a dozen small kernels, and starting them takes longer than their work. Here a
program walks all T rows for ROWS of the sequences. The numbers are those of the scan up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from meigm_jax.modules import gru
from meigm_jax.types import Array

ROWS = 16  # that a program walks, the fewest of a matrix unit
WIDTHS = (16, 32, 64)  # of the hidden state: powers of two whose three products fit on a multiprocessor of any such GPU
CAPABILITY = 8.0  # NVIDIA's Ampere: what Triton makes programs for


def fits(hidden: int, dtype: Any) -> bool:
    """Whether the kernels are made for hidden states of this width and type, and for the GPUs here."""
    return hidden in WIDTHS and dtype == jnp.float32 and all(map(_able, jax.local_devices()))


def _able(device: Any) -> bool:
    """Whether a device is an NVIDIA GPU for which Triton makes programs."""
    found = str(getattr(device, "compute_capability", ""))  # "9.0"; other makers' are no numbers
    return found.replace(".", "", 1).isdigit() and float(found) >= CAPABILITY


def forward(kernel: tuple[Array, ...], bias_n: Array, x: tuple[Array, ...], keep: Array) -> tuple[Array, ...]:
    """Hidden states after each row, and what `backward` needs: (hidden, h, r, z, n, inner), [T, R, H] each.

    Args:
        kernel: hidden-to-hidden, [H, H] for each of the gates r, z, n.
        bias_n: the candidate's inner bias, [H].
        x: input projections of the gates, [T, R, H] each.
        keep: f32[T, R], 0 where the state is cleared before the row is read, else 1.
    """
    out = [jax.ShapeDtypeStruct(x[0].shape, x[0].dtype)] * 6
    return _call(_forward, x[0].shape, out)(*kernel, bias_n, *x, keep)


def backward(kernel: tuple[Array, ...], keep: Array, saved: tuple[Array, ...], d_hidden: Array) -> tuple[Array, ...]:
    """Gradients by the gates' inputs and by the candidate's inner product: (d_r, d_z, d_n, d_inner), [T, R, H] each.

    saved: (h, r, z, n, inner) of `forward`; d_hidden: [T, R, H].
    """
    out = [jax.ShapeDtypeStruct(d_hidden.shape, d_hidden.dtype)] * 4
    return _call(_backward, d_hidden.shape, out)(*(k.T for k in kernel), keep, *saved, d_hidden)


def _call(kernel: Any, shape: tuple[int, ...], out: list[Any]) -> Any:
    """`kernel` with a program for every ROWS of the R sequences; anywhere but on a GPU interpreted, for tests."""
    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(shape[1], ROWS),),
        out_shape=out,
        interpret=jax.default_backend() == "cpu",
        compiler_params=triton.CompilerParams(num_warps=4),
    )


def _walk(inputs: tuple[Any, ...], keep: Any, order: Callable[[Array], Array], row: Callable[..., Array]) -> None:
    """Carry a state [ROWS, H] over the rows order(0), order(1), ... of `inputs` and `keep`, from zeros.

    row: a function that writes an output's row, what is kept [ROWS, 1], the inputs' row, the state -> the next state. A
    row is read while the one before it is worked on.
    """
    length, count, width = inputs[0].shape
    first = pl.program_id(0) * ROWS
    rows, there = pl.ds(first, ROWS), first + jnp.arange(ROWS) < count

    def read(i: Array) -> tuple[Array, tuple[Array, ...]]:
        t = order(jnp.minimum(i, length - 1))
        kept = triton.load(keep.at[t, rows], mask=there, other=0.0)[:, None]
        return kept, tuple(triton.load(ref.at[t, rows, :], mask=there[:, None], other=0.0) for ref in inputs)

    def write(i: Array, ref: Any, value: Array) -> None:
        triton.store(ref.at[order(i), rows, :], value, mask=there[:, None])

    def step(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        now, state = carry
        ahead = read(i + 1)
        return ahead, row(partial(write, i), *now, state)

    jax.lax.fori_loop(0, length, step, (read(jnp.int32(0)), jnp.zeros((ROWS, width), inputs[0].dtype)))


def _forward(*refs: Any) -> None:
    k_r, k_z, k_n, bias_n, x_r, x_z, x_n, keep, *out = refs
    kernel, bias = gru.Gates(k_r[...], k_z[...], k_n[...]), bias_n[...][None]

    def row(write: Any, kept: Array, x: tuple[Array, ...], h: Array) -> Array:
        new, saved = gru.cell(gru.Recurrent(kernel, bias), gru.Gates(*x), h * kept)
        for ref, value in zip(out, (new, *saved), strict=True):
            write(ref, value)
        return new

    _walk((x_r, x_z, x_n), keep, lambda i: i, row)


def _backward(*refs: Any) -> None:
    kt_r, kt_z, kt_n, keep, h, r, z, n, inner, d_hidden, *out = refs
    kernel_t = gru.Gates(kt_r[...], kt_z[...], kt_n[...])

    def row(write: Any, kept: Array, now: tuple[Array, ...], d_later: Array) -> Array:
        *saved, d_out = now
        d_prev, d_gates = gru.cell_backward(kernel_t, tuple(saved), d_out + d_later)
        for ref, value in zip(out, d_gates, strict=True):
            write(ref, value)
        return d_prev * kept

    last = d_hidden.shape[0] - 1
    _walk((h, r, z, n, inner, d_hidden), keep, lambda i: last - i, row)
