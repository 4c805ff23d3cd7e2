"""JaxMARL's multi-particle environments: simple_spread, agents that cover landmarks without touching each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from meigm_jax.envs.jaxmarl import adapt
from meigm_jax.envs.quiet import quiet
from meigm_jax.types import Env

with quiet():
    from jaxmarl.environments.mpe import SimpleSpreadMPE

PICTURE = 240  # pixels, height and width


def make(name: str, num_agents: int = 3, num_landmarks: int = 3, local_ratio: float = 0.5, max_steps: int = 25) -> Env:
    """simple_spread; its values are those of JaxMARL's `reset` and `step_env`, the reward summed over agents.

    An episode ends by its time limit alone, one step later than `max_steps` says.
    """
    return _make(name, num_agents, num_landmarks, local_ratio, max_steps)


@functools.cache  # JaxMARL's methods are jitted per object: a second one would compile everything again
def _make(name: str, num_agents: int, num_landmarks: int, local_ratio: float, max_steps: int) -> Env:
    spread = SimpleSpreadMPE(
        num_agents=num_agents, num_landmarks=num_landmarks, local_ratio=local_ratio, max_steps=max_steps
    )
    env = adapt(name, spread)
    spec = env.spec._replace(min_episode_length=env.spec.episode_limit)
    return env._replace(spec=spec, render=functools.partial(_render, spread))


def _render(spread: SimpleSpreadMPE, env_states: Sequence[Any]) -> list[np.ndarray]:
    """JaxMARL's picture of each state: agents, and the landmarks that they should cover."""
    import matplotlib.pyplot as plt

    with quiet():
        from jaxmarl.environments.mpe.mpe_visualizer import MPEVisualizer

        states = [env_state for env_state, _ in env_states]
        with plt.rc_context({"backend": "agg"}):
            picture = MPEVisualizer(spread, states)
    picture.fig.set_size_inches(PICTURE / 80, PICTURE / 80)
    picture.fig.set_dpi(80)
    frames = []
    for number in range(len(states)):
        picture.update(number)
        picture.fig.canvas.draw()
        frames.append(np.asarray(picture.fig.canvas.buffer_rgba())[..., :3].copy())
    plt.close(picture.fig)
    return frames
