"""One-step cooperative matrix games: one payoff for the whole team, one action per agent."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from meigm_jax.envs.payoff import check_payoff
from meigm_jax.types import Array, Env, EnvSpec, Metrics, TimeStep


def make(name: str, payoff: Any = ()) -> Env:
    """The game with N = its payoff's rank agents and A actions each; observation and state are f32[1] = 1.

    Raises ConfigError on a payoff that is not a nested list of finite numbers, A x A (x A ...).
    """
    table = jnp.asarray(check_payoff(payoff), jnp.float32)
    num_agents, num_actions = table.ndim, table.shape[0]

    def time_step(first: bool, last_action: Array) -> TimeStep:
        return TimeStep(
            obs=jnp.ones((num_agents, 1), jnp.float32),
            state=jnp.ones(1, jnp.float32),
            avail=jnp.ones((num_agents, num_actions), bool),
            first=jnp.asarray(first),
            last_action=last_action,
        )

    def reset(key: Array) -> tuple[tuple[()], TimeStep]:
        return (), time_step(True, jnp.full(num_agents, -1, jnp.int32))

    def step(
        key: Array, env_state: tuple[()], action: Array
    ) -> tuple[tuple[()], TimeStep, Array, Array, Array, Metrics]:
        reward = table[tuple(action)]
        return env_state, time_step(False, action), reward, jnp.asarray(True), jnp.asarray(False), {}

    spec = EnvSpec(
        name, num_agents, num_actions, 1, 1, episode_limit=1, min_episode_length=1, outcomes=(), win="none: the payoff"
    )
    return Env(spec, reset, step, normalise=lambda time_step: time_step)
