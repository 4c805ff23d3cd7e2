"""Any JaxMARL environment with discrete actions, by its id: what other suites do by hand, done by what it declares."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.envs.quiet import quiet, typed
from meigm_jax.registry import ConfigError, nearest
from meigm_jax.types import Array, Env, EnvSpec, Metrics, TimeStep

with quiet():
    import jaxmarl
    from jaxmarl.environments.multi_agent_env import MultiAgentEnv
    from jaxmarl.environments.spaces import Discrete

PREFIX = "jaxmarl_"
STATE = "world_state"  # the key under which an environment may put the global state among the observations
LIMITS = ("max_steps", "max_episode_length", "num_inner_steps")  # what JaxMARL's environments call their time limit
OWN = {"time_limit", "team_reward"}  # options that are ours, not JaxMARL's
MIN_EPISODE_LENGTH = 5  # sizes the pool of start states; beyond it they repeat


def make(name: str, time_limit: int | None = None, team_reward: str = "sum", **arguments: Any) -> Env:
    """The environment `name` ("jaxmarl_MPE_simple_reference_v3"); `arguments` go to JaxMARL's own maker.

    Raises ConfigError where the environment has no such argument, no discrete actions or no time limit.
    """
    env_id = name.removeprefix(PREFIX)
    return adapt(name, _build(env_id, arguments), time_limit, team_reward)


def _build(env_id: str, arguments: Mapping[str, Any]) -> MultiAgentEnv:
    try:
        with quiet():
            known = _keywords(jaxmarl.make(env_id)) if arguments else set()
    except Exception:  # it can't be made without arguments, or not at all: what follows will tell
        known = set(arguments)
    for key in arguments:
        if key not in known:  # some constructors swallow whatever they do not know
            raise ConfigError(f"unknown key 'env.options.{key}'; {nearest(str(key), known | OWN)}")
    try:
        with quiet():
            env = jaxmarl.make(env_id, **arguments)
    except (ImportError, UnboundLocalError) as error:  # the latter: an id that is registered but never made
        raise ConfigError(f"env.id: JaxMARL cannot make {env_id} here: {error}") from error
    except Exception as error:  # whatever a constructor makes of wrong arguments
        raise ConfigError(f"env.options: JaxMARL cannot make {env_id} with {dict(arguments)}: {error}") from error
    if not env.agents:
        raise ConfigError(f"env.options: {env_id} with {dict(arguments)} has no agents")
    for agent in env.agents:
        if not isinstance(env.action_space(agent), Discrete):
            raise ConfigError(f"env.id: {env_id} has continuous actions, value decomposition needs discrete ones")
    return env


def _keywords(env: Any) -> set[str]:
    """What the constructors of `env`, of its bases and of the environment that it wraps take."""
    inits = [inspect.signature(vars(cls)["__init__"]) for cls in type(env).__mro__[:-1] if "__init__" in vars(cls)]
    named = {p.name for init in inits for p in init.parameters.values() if p.kind is not p.VAR_KEYWORD} - {"self"}
    inner = getattr(env, "_env", None)
    return named | _keywords(inner) if isinstance(inner, MultiAgentEnv) else named


def adapt(name: str, env: MultiAgentEnv, time_limit: int | None = None, team_reward: str = "sum") -> Env:
    """The Env of a JaxMARL environment with discrete actions; its values are those of `reset` and `step_env`.

    Observations are flattened and padded with zeros, actions padded with unavailable ones, to the largest of any agent.
    The state is `world_state` where the environment has one, else all observations. The team's reward is the "sum" or
    the "mean" over agents. JaxMARL does not say why an episode is over: at the environment's own limit the limit counts
    as the reason. A `time_limit` that is no later truncates them there. Raises ConfigError where there is neither, and
    where an agent does not observe one array.
    """
    limit, cap, cut = _limits(name, env, time_limit)
    actions = [int(cast(Discrete, env.action_space(agent)).n) for agent in env.agents]
    exists = jnp.arange(max(actions)) < jnp.asarray(actions)[:, None]  # bool[N, A]
    shapes = _observed(name, env)
    obs_dims = [int(np.prod(shapes[agent].shape)) for agent in env.agents]
    has_avail = type(env).get_avail_actions is not MultiAgentEnv.get_avail_actions

    def time_step(obs: Any, env_state: Any, first: bool, last_action: Array) -> TimeStep:
        flat = [jnp.ravel(obs[agent]).astype(jnp.float32) for agent in env.agents]
        avail = exists
        if has_avail:
            given = env.get_avail_actions(env_state)
            avail = jnp.stack([_pad(jnp.ravel(given[agent]), max(actions)) for agent in env.agents]).astype(bool)
        return TimeStep(
            obs=jnp.stack([_pad(x, max(obs_dims)) for x in flat]),
            state=jnp.ravel(obs[STATE]).astype(jnp.float32) if STATE in obs else jnp.concatenate(flat),
            avail=avail,
            first=jnp.asarray(first),
            last_action=last_action,
        )

    def reset(key: Array) -> tuple[Any, TimeStep]:
        obs, env_state = env.reset(key)
        nothing = jnp.full(env.num_agents, -1, jnp.int32)
        return (typed(env_state), jnp.int32(0)), time_step(obs, env_state, True, nothing)

    def step(key: Array, state: Any, action: Array) -> tuple[Any, TimeStep, Array, Array, Array, Metrics]:
        actions = dict(zip(env.agents, action, strict=True))
        obs, env_state, rewards, dones, _ = env.step_env(key, state[0], actions)
        each = jnp.stack([jnp.asarray(rewards[agent], jnp.float32) for agent in env.agents])
        steps = state[1] + 1
        done = jnp.asarray(dones["__all__"], bool)
        over = done | (steps >= cap)
        timeout = (steps >= limit) & (~done if cut else over)
        at = time_step(obs, env_state, False, action)
        team = jnp.sum(each) if team_reward == "sum" else jnp.mean(each)
        return (env_state, steps), at, team, over & ~timeout, timeout, {}

    spec = EnvSpec(
        name=name,
        num_agents=env.num_agents,
        num_actions=max(actions),
        obs_dim=max(obs_dims),
        state_dim=int(np.prod(shapes[STATE].shape)) if STATE in shapes else sum(obs_dims),
        episode_limit=cap,
        min_episode_length=min(MIN_EPISODE_LENGTH, cap),
        outcomes=(),
    )
    return Env(spec, reset, step, normalise=lambda at: at)


def _limits(name: str, env: MultiAgentEnv, time_limit: int | None) -> tuple[int, int, bool]:
    """The limit that holds, the longest possible episode, and whether it is cut before the environment's own limit."""
    own = _own_limit(env)
    limits = [limit for limit in (own, time_limit) if limit is not None]
    if not limits:
        raise ConfigError(f"env.options.time_limit: {name} has no time limit of its own, give one")
    limit = min(limits)
    cap = limit if limit == time_limit else limit + 1  # some compare the count with the limit before they increment it
    return limit, cap, limit != own


def _observed(name: str, env: MultiAgentEnv) -> Mapping[str, Any]:
    """Shapes of what `reset` shows, by agent."""
    shapes = jax.eval_shape(env.reset, jax.random.key(0))[0]
    if not isinstance(shapes, Mapping) or not all(hasattr(shapes.get(agent), "shape") for agent in env.agents):
        raise ConfigError(f"env.id: {name} does not give each agent one array to observe")
    return shapes


def _own_limit(env: MultiAgentEnv) -> int | None:
    limit = next((limit for name in LIMITS if isinstance(limit := getattr(env, name, None), int)), None)
    return limit and limit * getattr(env, "num_outer_steps", 1)  # games that are played so many times in an episode


def _pad(x: Array, size: int) -> Array:
    return jnp.pad(x, (0, size - x.shape[0]))
