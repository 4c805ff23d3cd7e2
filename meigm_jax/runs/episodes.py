"""Episodes of what a run has learnt: played as evaluation in training does, and summed up with intervals."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from tqdm import tqdm

from meigm_jax.engine.evaluation import watch
from meigm_jax.engine.train_step import Streams
from meigm_jax.envs.training import for_training
from meigm_jax.runs.curves import interval
from meigm_jax.runs.restore import Restored
from meigm_jax.runs.rows import row_key
from meigm_jax.types import Array, Metrics

RATE = "win_rate"  # the metric that is a share of episodes
FIRST = (RATE, "return", "episode_length")  # the order of the metrics


class Played(NamedTuple):
    """What came of the episodes, and one of them in full."""

    metrics: dict[str, np.ndarray]  # f64[S, episodes], in the environment's own units
    first_episode: list[Any]  # env states of the first member's first episode, from its start to its end


class Estimate(NamedTuple):
    """A mean and its 95 % confidence interval; NaN where one value alone gives none."""

    mean: float
    low: float
    high: float


def play(restored: Restored, episodes: int, policy: str, seed: int = 0) -> Played:
    """Exactly `episodes` episodes of every member under `policy` ("greedy", "sampled" or "mode").

    Rounds of the run's evaluation.num_envs environments: whatever the number, the first episodes are the same.
    """
    num_envs, steps = restored.config.evaluation.num_envs, jnp.array(restored.env_steps, jnp.int32)
    env = for_training(restored.env, reward_scale=1.0)
    one = partial(watch, env, restored.algorithm, num_envs=num_envs, policy=policy)
    play_round = jax.jit(jax.vmap(one, in_axes=(0, 0, 0)))
    base = _fold_in(_fold_in(restored.key, Streams.AFTERWARDS), seed)
    rounds: list[dict[str, np.ndarray]] = []
    first: Any = None
    for number in tqdm(range(-(-episodes // num_envs)), unit="round", disable=None, leave=False):
        outcomes, states = play_round(restored.learner, _fold_in(base, number), steps)
        rounds.append(_named(outcomes))
        first = jax.tree.map(lambda x: x[0], states) if number == 0 else first
    names = sorted(rounds[0], key=lambda name: (*FIRST, name).index(name))
    metrics = {name: np.concatenate([each[name] for each in rounds], axis=1)[:, :episodes] for name in names}
    length = int(metrics["episode_length"][0, 0])
    first = jax.device_get(first)
    return Played(metrics, [jax.tree.map(lambda x, t=t: x[t], first) for t in range(length + 1)])


def _fold_in(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _named(outcomes: Metrics) -> dict[str, np.ndarray]:
    return {row_key(name): np.asarray(x, np.float64) for name, x in outcomes.items()}


def over_episodes(name: str, values: np.ndarray) -> Estimate:
    """Of one member's episodes, f64[episodes]: Wilson's interval for a win rate, else Student's t."""
    if name != RATE:
        return _student(values)
    low, high = stats.binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
    return Estimate(float(values.mean()), float(low), float(high))


def over_seeds(name: str, values: np.ndarray) -> Estimate:
    """Of the members' means, f64[S]: Student's t; a win rate's interval ends at 0 and 1."""
    mean, low, high = _student(values)
    return Estimate(mean, max(low, 0.0), min(high, 1.0)) if name == RATE else Estimate(mean, low, high)


def _student(values: np.ndarray) -> Estimate:
    return Estimate(*(float(x[0]) for x in interval(values[:, None])))
