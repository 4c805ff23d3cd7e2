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
        return members * max(busy, waiting) if in_turn else max(members * busy, waiting)


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
    """The rates of the first device, measured in well below a second."""

    def repeated(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 1000, lambda _, x: jnp.tanh(x @ w), x)

    large, small, w = jnp.ones(LARGE), jnp.ones(SMALL), jnp.ones((LARGE[1], LARGE[1]))
    flops = 2.0 * large.size * w.shape[1]
    return Rates(flops / _best(jax.jit(jnp.matmul), large, w), _best(jax.jit(repeated), small, w) / 1000)


def _best(function: Callable[..., Any], *args: Any) -> float:
    """Seconds of the fastest of many calls."""
    jax.block_until_ready(function(*args))
    best, end = math.inf, time.perf_counter() + MEASURED_SECONDS
    while (start := time.perf_counter()) < end:
        jax.block_until_ready(function(*args))
        best = min(best, time.perf_counter() - start)
    return best
