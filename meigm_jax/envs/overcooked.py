"""JaxMARL's Overcooked: two cooks, onion soup, 20 points for every delivery."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from meigm_jax.envs.quiet import quiet, typed
from meigm_jax.types import Array, Env, EnvSpec, Metrics, TimeStep

with quiet():
    from jaxmarl.environments.overcooked import Overcooked, overcooked_layouts

# What the channels of JaxMARL's observation that aren't flags count up to.
LARGEST = {16: 3, 17: 3, 18: 3, 19: 3, 20: 20}  # onions and tomatoes in a pot or a soup; cooking time left
CHANNELS = 26
COOKS = slice(0, 10)  # where they are and where they look
FIXED = [10, 12, 13, 14, 15, 17, 19, 24]  # pots, piles and the goal stay where they are; there are no tomatoes
AT_POTS = [16, 20]  # onions waiting in a pot, cooking time left
URGENCY = 25  # the same everywhere


def make(name: str, max_steps: int = 400, compact: bool = True) -> Env:
    """The layout `name` ("overcooked_cramped_room"); its values are those of JaxMARL's `reset` and `step_env`.

    An observation is JaxMARL's image [height, width, 26], flattened; the state is the first cook's, who sees the whole
    kitchen. An episode always ends by its time limit. `info["shaped_reward"]` is the sum over both cooks. Training
    reads vectors of what can change in this kitchen (`compact`), or the whole images.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it prefers its second version, the literature this one
        kitchen = Overcooked(layout=overcooked_layouts[name.removeprefix("overcooked_")], max_steps=max_steps)

    def reset(key: Array) -> tuple[Any, TimeStep]:
        obs, env_state = kitchen.reset(key)
        return typed(env_state), _time_step(kitchen, obs, True, jnp.full(kitchen.num_agents, -1, jnp.int32))

    def step(key: Array, env_state: Any, action: Array) -> tuple[Any, TimeStep, Array, Array, Array, Metrics]:
        obs, env_state, rewards, dones, info = kitchen.step_env(
            key, env_state, dict(zip(kitchen.agents, action, strict=True))
        )
        shaped = sum(info["shaped_reward"].values(), jnp.zeros(()))
        at = _time_step(kitchen, obs, False, action)
        # The reward is the team's: both cooks get the same.
        return env_state, at, rewards["agent_0"], jnp.asarray(False), dones["__all__"], {"shaped_reward": shaped}

    spec, read = _spec(name, kitchen), np.flatnonzero(_can_change(kitchen))
    if not compact:
        return Env(spec, reset, step, functools.partial(_normalise, _largest(kitchen), slice(None)), _render)
    vectors = spec._replace(obs_dim=len(read), state_dim=len(read), obs_shape=())
    return Env(spec, reset, step, functools.partial(_normalise, _largest(kitchen), read), _render, vectors)


def _spec(name: str, kitchen: Overcooked) -> EnvSpec:
    shape = (kitchen.height, kitchen.width, CHANNELS)
    return EnvSpec(
        name=name,
        num_agents=kitchen.num_agents,
        num_actions=len(kitchen.action_set),
        obs_dim=int(np.prod(shape)),
        state_dim=int(np.prod(shape)),
        episode_limit=kitchen.max_steps,
        min_episode_length=kitchen.max_steps,
        outcomes=(),
        obs_shape=shape,
        shaped=True,
        win="none: 20 for a delivery",
    )


def _time_step(kitchen: Overcooked, obs: Any, first: bool, last_action: Array) -> TimeStep:
    flat = jnp.stack([obs[agent].ravel() for agent in kitchen.agents]).astype(jnp.float32)
    return TimeStep(
        obs=flat,
        state=flat[0],
        avail=jnp.ones((kitchen.num_agents, len(kitchen.action_set)), bool),
        first=jnp.asarray(first),
        last_action=last_action,
    )


def _can_change(kitchen: Overcooked) -> np.ndarray:
    """bool[height * width * 26]: the features that can take another value some time in this kitchen."""
    read = np.ones((kitchen.height, kitchen.width, CHANNELS), bool)
    walls, pots = np.zeros((2, kitchen.height * kitchen.width), bool)
    walls[np.asarray(kitchen.layout["wall_idx"])] = True
    pots[np.asarray(kitchen.layout["pot_idx"])] = True
    read[walls.reshape(read.shape[:2]), COOKS] = False
    read[~pots.reshape(read.shape[:2])[..., None] & np.isin(np.arange(CHANNELS), AT_POTS)] = False
    read[..., FIXED] = False
    read.reshape(-1, CHANNELS)[1:, URGENCY] = False
    return read.ravel()


def _largest(kitchen: Overcooked) -> np.ndarray:
    """f32[height * width * 26]: what each feature counts up to."""
    largest = np.ones((kitchen.height, kitchen.width, CHANNELS), np.float32)
    for channel, value in LARGEST.items():
        largest[..., channel] = value
    return largest.ravel()


def _normalise(largest: np.ndarray, read: Any, at: TimeStep) -> TimeStep:
    """Counts and times to order one, and of all features those to `read`."""
    return at._replace(obs=(at.obs / largest)[:, read], state=(at.state / largest)[read])


def _render(env_states: Sequence[Any]) -> list[np.ndarray]:
    """JaxMARL's picture of each kitchen: cooks, what they carry, and the pots."""
    with quiet():
        from jaxmarl.viz.overcooked_visualizer import OvercookedVisualizer

    def draw(env_state: Any) -> np.ndarray:
        kitchen, (height, width) = np.asarray(env_state.maze_map), env_state.wall_map.shape
        border = (kitchen.shape[0] - height) // 2, (kitchen.shape[1] - width) // 2
        return OvercookedVisualizer._render_grid(
            kitchen[border[0] : border[0] + height, border[1] : border[1] + width],
            agent_dir_idx=np.asarray(env_state.agent_dir_idx),
            agent_inv=np.asarray(env_state.agent_inv),
        )

    return [draw(env_state) for env_state in env_states]
