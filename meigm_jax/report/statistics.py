"""Interquartile mean and probability of improvement, with 95 % stratified bootstrap intervals (Agarwal et al. 2021,
arXiv 2108.13264).

On scipy instead of rliable: rliable 1.2 needs arch < 8, which pandas 3 breaks, and ignores its `random_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from meigm_jax.runs.curves import RESAMPLES, TRIM


class Estimate(NamedTuple):
    """A value and the limits of its interval (NaN where there is none)."""

    value: float
    low: float = np.nan
    high: float = np.nan


def interquartile_mean(scores: Sequence[np.ndarray]) -> Estimate:
    """Mean of the middle half of all scores; f64[S] per environment, whose seeds are drawn among themselves."""
    from scipy.stats import trim_mean

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return trim_mean(np.concatenate(samples, axis), TRIM, axis=axis)

    return _estimate(statistic, scores)


def improvement(scores: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """P(X > Y), of a seed of X against one of Y, ties by half: its mean over environments; (f64[S], f64[S']) each."""

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(samples[::2], samples[1::2], strict=True)
        return np.mean([_wins(x, y) for x, y in pairs], axis=0)

    return _estimate(statistic, [sample for pair in scores for sample in pair])


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mann and Whitney's U divided by the number of pairs; over the last axes."""
    return (1 + np.sign(x[..., :, None] - y[..., None, :])).mean(axis=(-2, -1)) / 2


def _estimate(statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray]) -> Estimate:
    """No interval where a sample has a single score."""
    from scipy.stats import bootstrap

    value = float(statistic(*samples))
    if min(map(len, samples)) < 2:
        return Estimate(value)
    found = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, vectorized=True, method="percentile", rng=np.random.default_rng(0)
    )
    return Estimate(value, *map(float, found.confidence_interval))
