"""VDN: the joint value is the sum of the utilities (arXiv 1706.05296)."""

from __future__ import annotations

import jax.numpy as jnp

from meigm_jax.mixers.common import check
from meigm_jax.types import EnvSpec, Mixer, MixInput, Params


def make(spec: EnvSpec) -> Mixer:
    """Q_tot = sum_i q_i, without parameters."""

    def total(params: Params, x: MixInput):
        check(spec, x)
        return jnp.sum(x.q_taken, axis=-1)

    return Mixer(lambda key: {}, total)
