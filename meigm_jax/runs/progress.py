"""What the host loop remembers between chunks; all of it is in each checkpoint. No JAX here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meigm_jax.config import Config, num_iterations, steps_per_iteration

CHUNK_SECONDS = 2.0  # a stop signal waits for the chunk in flight
MAX_ITERATIONS = 1024  # per chunk: rows of metrics that are kept on the device


class Means:
    """Running means per metric and member, in the order of the iterations, so that chunk sizes don't matter."""

    def __init__(self, sums: dict[str, Any] | None = None, counts: dict[str, Any] | None = None):
        """From the two halves of `plain`, or empty."""
        self.sums = {name: np.array(x, np.float64) for name, x in (sums or {}).items()}
        self.counts = {name: np.array(x) for name, x in (counts or {}).items()}

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Add K iterations, f32[K, S] each; NaN means that a metric was not available."""
        for name, x in metrics.items():
            there = ~np.isnan(x)
            before = self.sums.get(name, np.zeros(x.shape[1]))
            terms = np.concatenate([before[None], np.where(there, x, 0.0).astype(np.float64)])
            self.sums[name] = np.cumsum(terms, axis=0)[-1]  # one after the other; a plain sum may add in pairs
            self.counts[name] = self.counts.get(name, 0) + there.sum(axis=0)

    def of(self, member: int) -> dict[str, float]:
        """The member's means; NaN where nothing was available."""
        counts = {name: int(x[member]) for name, x in self.counts.items()}
        return {n: float(x[member]) / counts[n] if counts[n] else math.nan for n, x in self.sums.items()}

    def plain(self) -> dict[str, Any]:
        """Plain containers; numbers as text, which takes every float exactly, infinities too."""
        sums = {name: [repr(float(v)) for v in x] for name, x in self.sums.items()}
        return {"sums": sums, "counts": {name: [int(v) for v in x] for name, x in self.counts.items()}}


@dataclass
class Progress:
    """How far a run is. Lists have one entry per member."""

    non_finite: list[int | None]  # env steps at which something first became NaN or infinite
    final: list[dict[str, Any]]  # policy -> last evaluation
    best: list[dict[str, Any]]  # the member's own best evaluation
    iteration: int = 0
    reported: int = 0  # the last iteration whose log point and evaluation, if any were due, have been made
    wall_time: float = 0.0
    train_seconds: float = 0.0  # in chunks, compilation excluded
    compile_seconds: float = 0.0
    # Of each point in checkpoints/best: win rate, where there is one, and return.
    best_scores: list[list[float] | None] = field(default_factory=lambda: [None])
    pending: Means = field(default_factory=Means)  # since the last log point

    @classmethod
    def start(cls, members: int, points: int = 1) -> Progress:
        """Before the first iteration; `points` are those of the sweep."""
        final, best = [{} for _ in range(members)], [{} for _ in range(members)]
        return cls([None] * members, final, best, best_scores=[None] * points)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Progress:
        """The inverse of `plain`, which has null for what was not finite."""
        for evaluation in (each for final in plain["final"] for each in final.values()):
            evaluation |= {key: math.nan for key, value in evaluation.items() if value is None}
        for best in plain["best"]:
            best |= {key: math.nan for key, value in best.items() if value is None}
        scores = [None if score is None or None in score else score for score in plain["best_scores"]]
        return cls(**{**plain, "best_scores": scores, "pending": Means(**plain["pending"])})

    def plain(self) -> dict[str, Any]:
        """Plain containers, for a manifest."""
        return {**vars(self), "pending": self.pending.plain()}


class Schedule:
    """Which iterations are followed by a log point or an evaluation: a function of the iteration number alone."""

    def __init__(self, config: Config):
        self._steps = steps_per_iteration(config)
        self._log, self._evaluation = config.log.interval, config.evaluation.interval
        self.last = num_iterations(config)
        self.max_iterations = max(1, min(MAX_ITERATIONS, -(-self._log // self._steps)))

    def log_due(self, iteration: int) -> bool:
        """True after the last iteration and wherever env steps pass a multiple of log.interval."""
        return self._due(iteration, self._log)

    def evaluation_due(self, iteration: int) -> bool:
        """True after the last iteration and wherever env steps pass a multiple of evaluation.interval."""
        return self._due(iteration, self._evaluation)

    def evaluations(self, done: int = 0) -> int:
        """How many evaluations follow after iteration `done`: one at the end, if there is anything left to do."""
        if done >= self.last:
            return 0
        passed = [iteration * self._steps // self._evaluation for iteration in (done, self.last - 1)]
        return min(passed[1] - passed[0], self.last - 1 - done) + 1

    def iterations_to_event(self, iteration: int) -> int:
        """Iterations from here to the next log point, evaluation or end."""
        return min(self._next(iteration, self._log), self._next(iteration, self._evaluation), self.last) - iteration

    def _due(self, iteration: int, interval: int) -> bool:
        env_steps = iteration * self._steps
        return iteration == self.last or env_steps // interval > (env_steps - self._steps) // interval

    def _next(self, iteration: int, interval: int) -> int:
        target = (iteration * self._steps // interval + 1) * interval
        return -(-target // self._steps)


class ChunkSize:
    """How many iterations take about CHUNK_SECONDS, by measurement; this must never change a result."""

    def __init__(self) -> None:
        self.seconds = math.inf  # per iteration; not measured yet
        self._last = 1

    def next(self, limit: int) -> int:
        """Iterations of the next chunk: at most `limit`, and at most double the last one."""
        fitting = int(CHUNK_SECONDS / self.seconds) if self.seconds < CHUNK_SECONDS else 1
        self._last = max(1, min(2 * self._last, fitting))
        return min(self._last, limit)

    def measured(self, seconds: float, iterations: int) -> None:
        """A chunk took so long, compilation excluded."""
        self.seconds = max(seconds, 1e-6) / iterations
