"""What mixers share: from a flax module to a Mixer whose inputs are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from meigm_jax.modules.layers import initial, run
from meigm_jax.types import Array, EnvSpec, Mixer, MixInput, Params


def check(spec: EnvSpec, x: MixInput) -> None:
    """Refuse inputs of another environment (AssertionError): numbers of agents and the size of the state."""
    chex.assert_equal_shape([x.q_taken, x.q_max, x.action, x.alive])
    chex.assert_axis_dimension(x.q_taken, -1, spec.num_agents)
    chex.assert_axis_dimension(x.state, -1, spec.state_dim)


def from_module(spec: EnvSpec, module: nn.Module, read: Callable[[MixInput], tuple[Any, ...]]) -> Mixer:
    """The Mixer of a module that maps what `read` takes from its input, any leading axes, to Q_tot [...]."""

    def init(key: Array) -> Params:
        q = jnp.zeros(spec.num_agents)
        nothing = MixInput(q, q, q.astype(int), jnp.zeros(spec.state_dim), q > 0, q[:, None])
        return initial(module, key, *read(nothing))

    def apply(params: Params, x: MixInput) -> Array:
        check(spec, x)
        return run(module, params, *read(x))

    return Mixer(init, apply)
