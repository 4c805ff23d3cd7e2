"""JaxMARL's SMAX with its heuristic enemy: unit micromanagement after StarCraft II, one agent per allied unit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.envs import smax_compact, smax_fast
from meigm_jax.envs.quiet import quiet, typed
from meigm_jax.envs.smax_fast import Draws, Seen
from meigm_jax.ops import threefry
from meigm_jax.types import Array, Env, EnvSpec, Metrics, TimeStep

with quiet():
    from jaxmarl.environments.smax import SMAX, HeuristicEnemySMAX, Scenario, map_name_to_scenario

SMACV2_MAPS = {"5v5": "smacv2_5_units", "10v10": "smacv2_10_units", "20v20": "smacv2_20_units"}
# Sizes the pool of start states; beyond it they repeat, so a typical minimum serves better than the bound. That is 1: a
# smacv2 team may start at a wall and die there at once. In 512 episodes each of 3m, 3s_vs_5z and 5v5 the shortest had
# 8 steps when actions were random. Starts repeat where an environment's episodes average less than this in a chunk.
MIN_EPISODE_LENGTH = 10
LONGEST_COOLDOWN = 2.0  # seconds: a stalker's, with its random part
PICTURE = 384  # pixels, both ways


class Simulator(NamedTuple):
    """SMAX with its enemy: what happens, and what it shows."""

    # noise, env state, i32[N] -> (env state, team reward f32[])
    step: Callable[[Any, Any, Array], tuple[Any, Array]]
    observe: Callable[[Any], Seen]  # SMAX's state, without its enemy's -> what it shows
    draw: Callable[[Array], Any] = lambda key: key  # key -> the noise of a step


def make(name: str, sight_range: float | None = None, simulator: str = "fast", **options: Any) -> Env:
    """The map `name` ("smax_3m"); its values are those of JaxMARL's `reset` and `step_env`, agents stacked.

    `options` are those of SMAX; the others are told in `adapt`.
    """
    return adapt(name, game(name, **options), sight_range, simulator, lambda units: units.unit_alive)


def game(name: str, **options: Any) -> HeuristicEnemySMAX:
    """JaxMARL's environment of the map `name`; `options` are those of SMAX."""
    return HeuristicEnemySMAX(scenario=_scenario(name.removeprefix("smax_")), **options)


def adapt(
    name: str,
    smax: HeuristicEnemySMAX,
    sight_range: float | None,
    simulator: str,
    fighting: Callable[[Any], Array],
) -> Env:
    """The Env of an SMAX with its enemy.

    `sight_range` replaces that of every allied unit's type, in map units; at 0 a unit sees itself alone. Available
    actions, the global state and the enemies' eyes stay as they are. `simulator` is "fast" or "jaxmarl", whose own code
    then runs. A team is defeated when none of its units is `fighting` any more: SMAX's state -> bool[units], allies
    first.
    """
    world = {"fast": fast, "jaxmarl": reference}[simulator](smax, sight_range)

    def reset(key: Array) -> tuple[Any, TimeStep]:
        _, env_state = smax.reset(threefry.fused(key))
        env_state = typed(env_state)
        last_action = jnp.full(smax.num_agents, -1, jnp.int32)
        return env_state, TimeStep(*world.observe(env_state.state), first=jnp.asarray(True), last_action=last_action)

    def step(noise: Any, env_state: Any, action: Array) -> tuple[Any, TimeStep, Array, Array, Array, Metrics]:
        env_state, reward = world.step(noise, env_state, action)
        fights = fighting(env_state.state)
        lost, won = ~fights[: smax.num_allies].any(), ~fights[smax.num_allies :].any()
        terminated = lost | won
        info = {"win": (won & ~lost).astype(jnp.float32)}
        time_step = TimeStep(*world.observe(env_state.state), first=jnp.asarray(False), last_action=action)
        return env_state, time_step, reward, terminated, env_state.state.done & ~terminated, info

    def expand(kept: smax_compact.Compact) -> tuple[Array, Array]:
        seen = world.observe(smax_compact.expand(smax._env, kept))
        return seen.obs, seen.state

    return Env(
        _spec(name, smax),
        reset,
        step,
        functools.partial(_normalise, smax),
        functools.partial(_render, smax),
        draw=world.draw,
        compact=lambda env_state: smax_compact.compact(smax._env, env_state.state),
        expand=expand,
    )


def fast(smax: HeuristicEnemySMAX, sight_range: float | None) -> Simulator:
    """Its rules as arithmetic on batches."""
    advance = smax_fast.make_advance(smax._env)
    draw = functools.partial(smax_fast.draw, smax)

    def step(noise: Array | Draws, env_state: Any, action: Array) -> tuple[Any, Array]:
        return advance(noise if isinstance(noise, Draws) else draw(noise), env_state, action)

    return Simulator(step, functools.partial(smax_fast.observe, smax._env, sight_range), draw)


def reference(smax: HeuristicEnemySMAX, sight_range: float | None) -> Simulator:
    """The reference: JaxMARL's own code, with the allies' sight range where one is given."""
    eyes = copy.copy(smax._env)
    if sight_range is not None:
        eyes.unit_type_sight_ranges = jnp.full_like(eyes.unit_type_sight_ranges, sight_range)

    def step(key: Array, env_state: Any, action: Array) -> tuple[Any, Array]:
        _, env_state, rewards, _, _ = smax.step_env(key, env_state, dict(zip(smax.agents, action, strict=True)))
        return env_state, rewards[smax.agents[0]]  # the team's: every agent gets the same

    def observe(state: Any) -> Seen:
        obs, avail = eyes.get_obs(state), smax._env.get_avail_actions(state)
        return Seen(
            obs=jnp.stack([obs[agent] for agent in smax.agents]),
            state=smax._env.get_world_state(state),
            avail=jnp.stack([avail[agent] for agent in smax.agents]).astype(bool),
        )

    return Simulator(step, observe)


def _scenario(map_name: str) -> Scenario:
    if map_name == "8m_vs_9m":  # of SMAC, missing in JaxMARL
        return Scenario(jnp.zeros(8 + 9, jnp.uint8), 8, 9, False, False)
    return map_name_to_scenario(SMACV2_MAPS.get(map_name, map_name))


def _spec(name: str, smax: HeuristicEnemySMAX) -> EnvSpec:
    episode_limit = smax.max_steps + 1  # JaxMARL compares the step count with the limit before it increments it
    return EnvSpec(
        name=name,
        num_agents=smax.num_allies,
        num_actions=smax.num_ally_actions,
        obs_dim=smax.obs_size,
        state_dim=smax.state_size,
        episode_limit=episode_limit,
        min_episode_length=min(MIN_EPISODE_LENGTH, episode_limit),
        outcomes=("win",),
        unit_dim=4 + len(smax.unit_type_names),  # health, x, y, cooldown, one-hot type
        win="all enemies dead, an ally alive",
    )


def _normalise(smax: HeuristicEnemySMAX, time_step: TimeStep) -> TimeStep:
    """The world state to order one; observations are so already. Rows of dead units stay zero.

    JaxMARL's world state is, per unit, [health, x, y, cooldown, one-hot type], then all teams, then all type numbers.
    """
    num_units, num_types = smax.num_allies + smax.num_enemies, len(smax.unit_type_names)
    units, teams, types = jnp.split(time_step.state, [-2 * num_units, -num_units])
    # A medivac has its energy there, which is divided by the most it can be. An idle unit's falls below 0 without end.
    largest = jnp.maximum(smax_fast.of_type(types, np.asarray(smax.unit_type_weapon_cooldowns)), LONGEST_COOLDOWN)
    units = units.reshape(num_units, -1)
    column = np.arange(units.shape[1])
    units = units / np.select([column == 1, column == 2], [smax.map_width, smax.map_height], 1.0).astype(np.float32)
    units = jnp.where(column == 3, jnp.clip(units / largest[:, None], 0.0, 1.0), units)
    return time_step._replace(state=jnp.concatenate([units.ravel(), teams, types / (num_types - 1)]))


def _render(smax: HeuristicEnemySMAX, env_states: Sequence[Any]) -> list[np.ndarray]:
    """JaxMARL's picture of each state: units with their types, the hit ones lighter, bullets of the step before it."""
    from matplotlib.figure import Figure

    drawn = copy.copy(smax._env)
    for name in ("unit_type_radiuses", "unit_type_attack_ranges"):  # looked up for every unit: NumPy is quicker
        setattr(drawn, name, np.asarray(getattr(drawn, name)))
    figure = Figure(figsize=(PICTURE / 80, PICTURE / 80), dpi=80)
    axes = figure.add_axes((0, 0, 1, 1))
    with jax.disable_jit():  # JaxMARL draws with jax.lax.cond on fresh functions: each would be compiled
        return [_draw(drawn, axes, env_state.state) for env_state in env_states]


def _draw(smax: SMAX, axes: Any, units: Any) -> np.ndarray:
    """u8[PICTURE, PICTURE, 3]. JaxMARL returns the picture that it has drawn as an image of its own."""
    attacks = dict(zip(smax.agents, units.prev_attack_actions, strict=True))
    half_way = smax.world_steps_per_env_step // 2  # of the bullets
    image = smax.init_render(axes, (None, units, attacks), half_way, int(units.step))
    return np.asarray(image.get_array()).reshape(PICTURE, PICTURE, -1)[..., :3]
