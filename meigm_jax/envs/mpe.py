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

PICTURE, DPI = 240, 80  # pixels, height and width; per inch


def make(name: str, num_agents: int = 3, num_landmarks: int = 3, local_ratio: float = 0.5, max_steps: int = 25) -> Env:
    """simple_spread; its values are those of JaxMARL's `reset` and `step_env`, the reward summed over agents.

    An episode ends by its time limit alone, one step later than `max_steps` says.
    """
    spread = SimpleSpreadMPE(
        num_agents=num_agents, num_landmarks=num_landmarks, local_ratio=local_ratio, max_steps=max_steps
    )
    env = adapt(name, spread)
    spec = env.spec._replace(min_episode_length=env.spec.episode_limit, unit_dim=env.spec.obs_dim)
    spec = spec._replace(win="none: landmarks covered, collisions avoided")
    return env._replace(spec=spec, render=functools.partial(_render, spread))


def _render(spread: SimpleSpreadMPE, env_states: Sequence[Any]) -> list[np.ndarray]:
    """JaxMARL's picture of each state: agents, and the landmarks that they should cover."""
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    states = [env_state for env_state, _ in env_states]
    with quiet(), pyplot.rc_context({"backend": "agg", "figure.dpi": DPI}):
        from jaxmarl.environments.mpe.mpe_visualizer import MPEVisualizer

        picture = MPEVisualizer(spread, states)
    pyplot.close(picture.fig)  # from here on it is ours alone
    picture.fig.set_size_inches(PICTURE / DPI, PICTURE / DPI)
    canvas, frames = FigureCanvasAgg(picture.fig), []
    for number in range(len(states)):
        picture.update(number)
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames
