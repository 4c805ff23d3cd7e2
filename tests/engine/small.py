"""A small environment whose every number is known, and algorithms as simple as the engine allows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from meigm_jax.engine.train_step import Sizes
from meigm_jax.ops import policies
from meigm_jax.types import Algorithm, Env, EnvSpec, Hyper, Learner, TimeStep

AGENTS, ACTIONS = 2, 4
SPEC = EnvSpec("counter", AGENTS, ACTIONS, obs_dim=3, state_dim=4, episode_limit=6, min_episode_length=3,
               outcomes=("win",))  # fmt: skip
SIZES = Sizes(**dict.fromkeys(Sizes._fields, 0))._replace(
    num_envs=2,
    chunk_length=8,
    updates_per_chunk=4,
    batch_size=3,
    target_update_interval=3,
    capacity=8,
    dtype=jnp.float32,
    in_turn=False,
)
HYPER = Hyper(*(jnp.float32(0) for _ in Hyper._fields))


class Counter(NamedTuple):
    """An episode counts its steps up to its length; what it will be is drawn at its start."""

    t: jax.Array
    length: jax.Array  # 3 to 6
    limit: jax.Array  # bool: ends by the time limit
    tag: jax.Array  # a random number that tells episodes apart
    key: jax.Array


def time_step(state: Counter, last_action: jax.Array) -> TimeStep:
    """Everything is visible in the state; availability is random at every step, with one action at least."""
    avail = jax.random.bernoulli(jax.random.fold_in(state.key, state.t), 0.4, (AGENTS, ACTIONS))
    agents = jnp.arange(AGENTS, dtype=jnp.float32)
    obs = jnp.stack([jnp.full(AGENTS, state.t, jnp.float32), agents, jnp.full(AGENTS, state.tag)], axis=-1)
    return TimeStep(
        obs=obs,
        state=jnp.stack([state.t, state.length, state.limit, state.tag]).astype(jnp.float32),
        avail=avail.at[:, 0].set(avail[:, 0] | ~avail.any(-1)),
        first=state.t == 0,
        last_action=last_action,
    )


def reset(key):
    k_length, k_limit, k_tag, k_steps = jax.random.split(key, 4)
    state = Counter(
        jnp.int32(0),
        jax.random.randint(k_length, (), 3, 7),
        jax.random.bernoulli(k_limit),
        jax.random.uniform(k_tag),
        k_steps,
    )
    return state, time_step(state, jnp.full(AGENTS, -1))


def reward_of(t, action):
    """Of the transition from t: known from the row alone."""
    return 1.0 + t + 0.125 * action.sum(-1)


def step(key, state, action):
    reward = reward_of(state.t, action).astype(jnp.float32)
    state = state._replace(t=state.t + 1)
    ended = state.t >= state.length
    info = {"win": (state.tag > 0.5).astype(jnp.float32)}
    return state, time_step(state, action), reward, ended & ~state.limit, ended & state.limit, info


def expand(kept):
    """Observations and state of what a replay keeps of a Counter: all but its key."""
    at = time_step(Counter(*kept, key=jax.random.key(0)), jnp.full(AGENTS, -1))
    return at.obs, at.state


ENV = Env(SPEC, reset, step, normalise=lambda at: at, compact=lambda state: tuple(state[:-1]), expand=expand)


def random_act(learner, carry, at, noise, env_step, policy):
    """Any available action; greedy: the first one. The carry counts calls."""
    logits = jnp.zeros(at.avail.shape)
    action = (
        policies.greedy(logits, at.avail)
        if policy == "greedy"
        else policies.sample(policies.boltzmann(logits, at.avail), at.avail, noise)
    )
    return action, carry + 1


def counting_update(learner, key, batch, env_step):
    """Every gradient step adds one to the parameter."""
    params = learner.params + 1
    return learner._replace(params=params), {"params": params, "env_step": jnp.float32(env_step)}


def counting_init(key, hyper):
    return Learner(jnp.float32(0), jnp.float32(0), (), hyper)


COUNTING = Algorithm(counting_init, lambda num_envs: jnp.zeros((num_envs, AGENTS, 1)), random_act, counting_update)
