"""Evaluation: exactly so many episodes, by the same rollout and the same `act` as training."""

from __future__ import annotations

import jax

from meigm_jax.engine.rollout import collect
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
    greedy: bool,
) -> Metrics:
    """Outcomes of `episodes` whole episodes, f32[episodes] each: return, episode_length and spec.outcomes.

    Rounds of `num_envs` environments, one episode each, run to the end, so short episodes are not over-represented.
    """
    num_envs = min(num_envs, episodes)
    rounds = -(-episodes // num_envs)

    def play(key: Array) -> Metrics:
        return collect(
            env,
            algorithm,
            learner,
            key,
            step,
            num_envs=num_envs,
            length=env.spec.episode_limit,
            greedy=greedy,
            pool_size=1,
        ).outcomes

    outcomes = jax.lax.map(play, jax.random.split(key, rounds))
    return {name: x.reshape(-1)[:episodes] for name, x in outcomes.items()}
