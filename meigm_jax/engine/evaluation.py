"""Evaluation: exactly so many episodes, by the same rollout and the same `act` as training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from meigm_jax.engine.rollout import Collected, collect
from meigm_jax.ops import shards
from meigm_jax.types import Algorithm, Array, Env, Learner, Metrics


def evaluate(
    env: Env,
    algorithm: Algorithm,
    learner: Learner,
    key: Array,
    step: Array,
    *,
    episodes: int,
    num_envs: int,
    policy: str,
) -> Metrics:
    """Outcomes of `episodes` whole episodes, f32[episodes] each: return, episode_length and spec.outcomes.

    Rounds of `num_envs` environments, one episode each, run to the end, so short episodes are not over-represented.
    Shards that don't divide these evenly play some more, and so other episodes than a whole member.
    """
    num_envs = shards.rounded_up(min(num_envs, episodes))
    rounds = -(-episodes // num_envs)

    def play(key: Array) -> Metrics:
        return _round(env, algorithm, learner, key, step, num_envs, policy).outcomes

    outcomes = jax.lax.map(play, jax.random.split(key, rounds))
    return {name: x.reshape(-1)[:episodes] for name, x in shards.gathered(outcomes, axis=1).items()}


def watch(
    env: Env, algorithm: Algorithm, learner: Learner, key: Array, step: Array, *, num_envs: int, policy: str
) -> tuple[Metrics, Any]:
    """One round of `evaluate`: outcomes f32[num_envs] each, and the env states [T + 1] of its first environment.

    The first episode_length + 1 of these are the first episode, from its start to its end; the rest is of no use.
    """

    def first(env_states: Any) -> Any:
        return jax.tree.map(lambda x: x[0], env_states)

    collected = _round(env, algorithm, learner, key, step, num_envs, policy, first)
    return collected.outcomes, collected.kept


def _round(
    env: Env,
    algorithm: Algorithm,
    learner: Learner,
    key: Array,
    step: Array,
    num_envs: int,
    policy: str,
    keep: Callable[[Any], Any] = lambda env_states: (),
) -> Collected:
    """One whole episode of each environment."""
    return collect(
        env,
        algorithm,
        learner,
        key,
        step,
        num_envs=num_envs,
        length=env.spec.episode_limit,
        policy=policy,
        pool_size=1,
        keep=keep,
    )
