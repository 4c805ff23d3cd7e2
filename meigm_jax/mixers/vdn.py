"""VDN: the joint value is the sum of utilities (arXiv 1706.05296)."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from meigm_jax.types import Array, EnvSpec, Mixer, MixInput, Params


def make(spec: EnvSpec) -> Mixer:
    """Q_tot = sum_i q_i."""

    def apply(params: Params, x: MixInput) -> Array:
        chex.assert_axis_dimension(x.q_taken, -1, spec.num_agents)
        return jnp.sum(x.q_taken, axis=-1)

    return Mixer(init=lambda key: {}, apply=apply)
