"""The temperature alpha: fixed, scheduled or learned, always within [alpha_min, alpha_max].

The floor is not cosmetic: exact ties pin the entropy above its target, alpha would run to 0 and the logits to NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from meigm_jax.ops.policies import linear_schedule
from meigm_jax.types import Array, EnvSpec, Hyper, Params, Temperature


def make_learned(spec: EnvSpec, target_per: str) -> Temperature:
    """rho = log alpha with J(rho) = sg(H - H_target) rho (paper, eq. 11; linear in rho as HARL does).

    The joint target is hyper.target_entropy nats per agent that has a choice ("alive"), or per team member ("team").
    """

    def bounds(hyper: Hyper) -> tuple[Array, Array]:
        return jnp.log(hyper.alpha_min), jnp.log(hyper.alpha_max)

    def init(hyper: Hyper) -> Params:
        return {"log_alpha": jnp.clip(jnp.log(hyper.alpha_start), *bounds(hyper))}

    def alpha(params: Params, hyper: Hyper, step: Array) -> Array:
        return jnp.exp(params["log_alpha"])

    def target(hyper: Hyper, alive: Array) -> Array:
        count = jnp.sum(alive, axis=-1) if target_per == "alive" else spec.num_agents
        return hyper.target_entropy * jnp.broadcast_to(count, alive.shape[:-1])

    def loss(params: Params, excess: Array) -> Array:
        return jax.lax.stop_gradient(excess) * params["log_alpha"]

    def project(params: Params, hyper: Hyper) -> Params:
        return {"log_alpha": jnp.clip(params["log_alpha"], *bounds(hyper))}

    return Temperature(init, alpha, target, loss, project)


def make_fixed(spec: EnvSpec) -> Temperature:
    """alpha = alpha_start throughout (0.03 in all code that the authors published)."""
    return _unlearned(lambda hyper, step: hyper.alpha_start)


def make_schedule(spec: EnvSpec) -> Temperature:
    """alpha_start to alpha_end, linear in env steps over alpha_decay_steps."""
    return _unlearned(lambda h, step: linear_schedule(h.alpha_start, h.alpha_end, h.alpha_decay_steps, step))


def _unlearned(value: Callable[[Hyper, Array], Array]) -> Temperature:
    return Temperature(
        init=lambda hyper: {},
        alpha=lambda params, hyper, step: jnp.clip(value(hyper, step), hyper.alpha_min, hyper.alpha_max),
        target=lambda hyper, alive: jnp.zeros(alive.shape[:-1]),
        loss=lambda params, excess: jnp.zeros(()),
        project=lambda params, hyper: params,
    )
