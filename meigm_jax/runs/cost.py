"""How long a program takes, roughly, without compiling it: its operations are counted, the machine is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn

# An element that an operation other than a product writes takes as long as so many operations of a product. Fitted to
# training on two cores of an AVX-512 CPU at 175 GFLOP/s, three seeds: smax_3m 377 ms per iteration with 8 gradient
# steps and 750 ms with 16, smax_5v5 676 ms with 8; the formula gives 389, 757 and 681.
FLOPS_PER_ELEMENT = 6.0
# What the compiler does not fuse with its neighbours: each has a start of its own, of which small programs consist.
KERNELS = ("dot_general", "conv_general_dilated", "reduce_", "arg", "cum", "sort", "scatter")
# On a GPU time goes to starting kernels, and to work only where many members share a program. Both fitted to training
# on an NVIDIA H100, 1 to 64 seeds of smax_5v5 and smax_10v10, 16 and 64 environments, 8 and 32 gradient steps on 4 to
# 32 sequences: the formula gives 0.75 to 1.19 times what nine such iterations took, 24 to 152 ms.
GPU_FLOPS, GPU_KERNEL_SECONDS = 29e12, 2.3e-6
LARGE, SMALL = (4096, 64), (16, 64)  # rows, width of products: an agent that reads a batch of sequences, and that acts
MEASURED_SECONDS = 0.4  # the best of many repetitions: what the machine gives while nothing disturbs it
IN_PLACE = {"dynamic_update_slice": 1, "scatter": 2, "scatter-add": 2, "scatter_add": 2}  # -> which input is written


class Work(NamedTuple):
    """What a program does."""

    flops: float = 0.0  # of products
    elements: float = 0.0  # written by all other operations
    kernels: float = 0.0

    def plus(self, other: Work, times: float = 1.0) -> Work:
        """The sum with `times` the other."""
        return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


class Rates(NamedTuple):
    """What the machine can do."""

    flops: float  # per second, of products
    kernel_seconds: float  # of a small product in a compiled loop

    def seconds(self, work: Work, members: int, in_turn: bool) -> float:
        """For `members` times the work: one after the other, or all in one batched program."""
        busy = (work.flops + FLOPS_PER_ELEMENT * work.elements) / self.flops
        waiting = work.kernels * self.kernel_seconds
        return members * max(busy, waiting) if in_turn else members * busy + waiting


def work_of(function: Callable[..., Any], *args: Any) -> Work:
    """The work of `function`, traced with arguments that may be shapes only. Loops of unknown length count once."""
    return _work(jax.make_jaxpr(function)(*args).jaxpr)


def _work(jaxpr: Jaxpr) -> Work:
    total = Work()
    for equation in jaxpr.eqns:
        total = total.plus(_work_of_equation(equation))
    return total


def _work_of_equation(equation: JaxprEqn) -> Work:
    name, inner = equation.primitive.name, [_work(jaxpr) for jaxpr in _inner(equation.params)]
    if name == "pallas_call":
        return _work_of_own_kernel(equation)
    if inner:  # the largest: the longest branch, the body of a loop rather than its condition
        return Work().plus(max(inner), equation.params["length"] if name == "scan" else 1)
    kernels = float(name.startswith(KERNELS))
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
        return Work(2.0 * depth * _size(equation.outvars[0]), 0.0, kernels)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1], equation.params["dimension_numbers"]
        depth = _size(kernel) / _shape(kernel)[numbers.rhs_spec[0]]
        return Work(2.0 * depth * _size(equation.outvars[0]), 0.0, kernels)
    written = [equation.invars[IN_PLACE[name]]] if name in IN_PLACE else equation.outvars
    return Work(0.0, float(sum(map(_size, written))), kernels)


def _work_of_own_kernel(equation: JaxprEqn) -> Work:
    """Of a kernel of `gru_kernel`: each of its programs walks all rows; a row takes as long as starting a kernel."""
    [jaxpr] = _inner(equation.params)
    [loop] = [inner for inner in jaxpr.eqns if inner.primitive.name == "scan"]
    programs = math.prod(equation.params["grid_mapping"].grid)
    return Work().plus(_work(jaxpr), programs)._replace(kernels=float(loop.params["length"]))


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an operation runs."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(each, "jaxpr", each)  # some come with their constants
            if isinstance(jaxpr, Jaxpr):
                yield jaxpr


def _shape(variable: Any) -> tuple[int, ...]:
    return getattr(variable.aval, "shape", ())


def _size(variable: Any) -> int:
    return math.prod(_shape(variable))


def measure() -> Rates:
    """The rates of the first device, measured in below a second; a GPU's are those of an H100."""
    if jax.default_backend() != "cpu":
        return Rates(GPU_FLOPS, GPU_KERNEL_SECONDS)

    def repeated(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 1000, lambda _, x: jnp.tanh(x @ w), x)

    small, w = jnp.ones(SMALL), jnp.ones((SMALL[1], SMALL[1]))
    return Rates(narrow_flops(), _best(jax.jit(repeated), small, w) / 1000)


def narrow_flops() -> float:
    """Flops per second of a product as narrow as those of an agent that reads a batch of sequences, measured."""
    x, w = jnp.ones(LARGE), jnp.ones((LARGE[1], LARGE[1]))
    return 2.0 * x.size * w.shape[1] / _best(jax.jit(jnp.matmul), x, w)


def _best(function: Callable[..., Any], *args: Any) -> float:
    """Seconds of the fastest of many calls."""
    jax.block_until_ready(function(*args))
    best, end = math.inf, time.perf_counter() + MEASURED_SECONDS
    while (start := time.perf_counter()) < end:
        jax.block_until_ready(function(*args))
        best = min(best, time.perf_counter() - start)
    return best
