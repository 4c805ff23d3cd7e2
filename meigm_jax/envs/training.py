"""From a bare environment to the one that training reads: normalised inputs, scaled reward."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from meigm_jax.types import Array, Env, Metrics, TimeStep


def for_training(env: Env, reward_scale: float) -> Env:
    """`env` with normalised time steps and rewards times `reward_scale`; flags and info untouched."""

    def reset(key: Array) -> tuple[Any, TimeStep]:
        env_state, time_step = env.reset(key)
        return env_state, env.normalise(time_step)

    def step(noise: Any, env_state: Any, action: Array) -> tuple[Any, TimeStep, Array, Array, Array, Metrics]:
        env_state, time_step, reward, terminated, truncated, info = env.step(noise, env_state, action)
        if env.spec.shaped:
            info = info | {"shaped_reward": info["shaped_reward"] * reward_scale}
        return env_state, env.normalise(time_step), reward * reward_scale, terminated, truncated, info

    def expand(compact: Any) -> tuple[Array, Array]:
        assert env.expand is not None
        obs, state = env.expand(compact)
        nothing = jnp.zeros((env.spec.num_agents, env.spec.num_actions), bool)
        at = env.normalise(TimeStep(obs, state, nothing, nothing[0, 0], jnp.full(env.spec.num_agents, -1)))
        return at.obs, at.state

    spec = env.training_spec or env.spec
    return env._replace(reset=reset, step=step, spec=spec, expand=None if env.expand is None else expand)
