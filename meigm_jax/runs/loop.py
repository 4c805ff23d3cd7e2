"""The host loop: chunks of compiled iterations, and between them logs, evaluations and checkpoints.

A run that is interrupted and resumed ends with the same parameters and metrics, bit for bit, as one that never was:
whatever happens between chunks depends on the iteration number alone, never on time or on the size of the chunks.
A resumed run may be extended (total_env_steps); its former last iteration keeps its log point and final evaluation.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.config import (
    Config,
    grid,
    members,
    members_in_words,
    num_members,
    steps_per_iteration,
)
from meigm_jax.engine.train_step import Streams, TrainState
from meigm_jax.registry import ConfigError
from meigm_jax.runs import directory
from meigm_jax.runs.checkpoint import Checkpoints, disk_bytes
from meigm_jax.runs.devices import devices_of, divide_cpu, idle
from meigm_jax.runs.files import NotSaved, write_text
from meigm_jax.runs.logger import Console, MetricsFile, to_json
from meigm_jax.runs.machine import CompileClock, check_replay_fits, human_bytes, versions
from meigm_jax.runs.progress import ChunkSize, Means, Progress, Schedule
from meigm_jax.runs.rows import TRAIN_KEYS, Row, decisive, main_policy, row_key
from meigm_jax.runs.signals import StopSignals
from meigm_jax.runs.summary import summary_of, table_of
from meigm_jax.runs.trainer import (
    Trainer,
    make_algorithm,
    make_env,
    make_trainer,
    member_hypers,
    member_seeds,
    replay_bytes,
)
from meigm_jax.runs.wandb_sink import Wandb

ALWAYS = ("loss_td", "grad_norm")  # metrics of every gradient step: NaN there is no missing value
TrainerFactory = Callable[[Config, int], Trainer]


def check(config: Config, resume: Path | None = None, memory: bool = True) -> None:
    """Raise ConfigError for what only run directory, devices and environment can tell, before anything starts.

    memory: also when the replay of a new run does not fit.
    """
    if resume is None:
        directory.new(config)
    else:
        directory.old(resume)
    devices_of(config)
    env = make_env(config)
    make_algorithm(config, env.spec)
    if resume is None and memory:
        check_replay_fits(config, replay_bytes(config, env))


def run(config: Config, resume: Path | None = None, trainer_factory: TrainerFactory = make_trainer) -> dict[str, Any]:
    """Train all members of `config` to the end, in a new run directory or on from `resume`; what summary.json says.

    `config` must then be the run's own but for total_env_steps, devices, checkpoint, log and wandb. Without any
    completed checkpoint the run starts again at its beginning. Raises ConfigError before anything is written;
    NotSaved when all is trained and its end is not on the disk; SystemExit 130 on Ctrl-C and 143 on SIGTERM, after a
    checkpoint once the first chunk is through.
    """
    started = time.monotonic()
    divide_cpu([config])
    with StopSignals() as stop, CompileClock() as clock:
        run_dir = directory.new(config) if resume is None else directory.old(Path(resume))
        if resume is not None and (summary := directory.finished(config, run_dir)):
            print(f"nothing to do: {run_dir} has {summary['env_steps']} env steps; raise total_env_steps to extend it")
            return summary
        trainer = trainer_factory(config, Schedule(config).max_iterations)
        fits = check_replay_fits(config, trainer.replay_bytes)
        if resume is None:
            run_dir = directory.begin(config, run_dir)
        print(fits, flush=True)
        if line := idle(config):
            print(line, flush=True)
        if config.sweep:
            print(f"one program for {members_in_words(config)}", flush=True)
        with MetricsFile(run_dir / "metrics.jsonl") as metrics:
            state, progress, checkpoints = _begin(config, run_dir, trainer, metrics)
            if resume is not None:
                directory.write_config(config, run_dir)
            console = Console(config, progress.iteration * steps_per_iteration(config))
            wandb = Wandb(config, run_dir, console)
            wandb.commit(metrics.offset)
            sinks = (metrics, console, wandb)
            training = Run(config, run_dir, trainer, state, progress, checkpoints, *sinks, stop, clock, started)
            try:
                summary = training.train()
            finally:
                console.close()
                wandb.finish(hurry=lambda: stop.signum is not None)
            stop.leave_if_asked()
            return summary


def _begin(
    config: Config, run_dir: Path, trainer: Trainer, metrics: MetricsFile
) -> tuple[TrainState, Progress, Checkpoints]:
    """The newest intact checkpoint, or the start; metrics.jsonl is cut to what was written by then.

    Raises ConfigError, and changes nothing, where a finished run has no intact checkpoint left.
    """
    checkpoints = Checkpoints(run_dir / "checkpoints", config)
    state = trainer.init(member_seeds(config), member_hypers(config))
    restored = checkpoints.restore(state, lambda text: print(f"warning: {text}", flush=True))
    if restored is None:
        if (run_dir / "summary.json").exists():
            raise ConfigError(f"resume: {run_dir} was finished, but has no checkpoint left to go on from")
        if metrics.offset:
            print("no checkpoint had been saved: the run starts again at its beginning", flush=True)
        metrics.cut(0)
        return state, Progress.start(num_members(config), len(grid(config))), checkpoints
    state, host = restored
    metrics.cut(host["metrics_bytes"])
    print(f"resumed at {host['env_steps']} env steps: {run_dir}", flush=True)
    return state, Progress.from_plain(host["progress"]), checkpoints


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """bool[S]: every floating-point number of the member is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x.reshape(x.shape[0], -1)).all(axis=1) for x in leaves]).all(axis=0)


@dataclass
class Run:
    """One run in progress."""

    config: Config
    run_dir: Path
    trainer: Trainer
    state: TrainState
    progress: Progress
    checkpoints: Checkpoints
    metrics: MetricsFile
    console: Console
    wandb: Wandb
    stop: StopSignals
    clock: CompileClock
    started: float  # time.monotonic() at the start of the command, less what the run had taken before
    size: ChunkSize = field(default_factory=ChunkSize)
    unsaved: str = ""  # why the last save failed, if it did

    def __post_init__(self) -> None:
        self.members = members(self.config)
        self.schedule = Schedule(self.config)
        self.steps = steps_per_iteration(self.config)
        self.evaluation_key = jax.vmap(lambda key: jax.random.fold_in(key, Streams.EVALUATION))(self.state.key)
        self.policy = main_policy(self.config.evaluation.policies)
        self.started -= self.progress.wall_time
        self.compiled_before = self.progress.compile_seconds
        self.saved_at = time.monotonic()

    @property
    def env_steps(self) -> int:
        """Env steps so far, per seed."""
        return self.progress.iteration * self.steps

    def train(self) -> dict[str, Any]:
        """All remaining iterations, then the summary."""
        self._announce_checkpoints()
        self._report()
        if self.progress.iteration == self.schedule.last:  # stopped before it could report, and then resumed
            self._save()
        while self.progress.iteration < self.schedule.last:
            self._advance()
            self.stop.armed = True
            self._leave_if_asked()
            self._report()
            waited = time.monotonic() - self.saved_at
            last = self.progress.iteration == self.schedule.last
            if last or waited >= self.config.checkpoint.interval_seconds:
                self._save()
            if not last:
                self._leave_if_asked()
        summary = self._finish()
        self.stop.leave_if_asked()
        return summary

    def _leave_if_asked(self) -> None:
        """On a signal, save at once and leave; what this iteration has to report is reported on resuming."""
        if self.stop.signum is not None:
            self._save()
            self.console.message(f"stopped; resume: python -m meigm_jax.train resume={shlex.quote(str(self.run_dir))}")
            self.stop.leave_if_asked()

    def _advance(self) -> None:
        """One chunk: up to the next event, and about as long as a stop signal may have to wait."""
        first, compiled, begin = self.progress.iteration, self.clock.seconds, time.monotonic()
        if first == self.trainer.sizes.warmup_iterations:
            self.size = ChunkSize()  # an iteration takes longer from here on
        count = self.size.next(self._limit(first))
        self.state, metrics = self.trainer.run(self.state, first, count)
        rows = {row_key(name): np.asarray(x)[:count] for name, x in metrics.items()}
        jax.block_until_ready(self.state)
        seconds = time.monotonic() - begin - (self.clock.seconds - compiled)
        self.size.measured(seconds, count)
        self.progress.train_seconds += seconds
        self.progress.iteration += count
        self.progress.pending.add(rows)
        self._note_non_finite(rows, first)
        self._show()

    def _limit(self, first: int) -> int:
        warmup = self.trainer.sizes.warmup_iterations
        to_learning = warmup - first if first < warmup else self.schedule.max_iterations
        return min(self.schedule.iterations_to_event(first), self.schedule.max_iterations, to_learning)

    def _grad_steps(self) -> int:
        return int(self.trainer.sizes.grad_steps(self.progress.iteration))

    def _note_non_finite(self, rows: dict[str, np.ndarray], first: int) -> None:
        """Remember the first iteration with an infinite metric, or NaN where gradient steps were taken."""
        bad = np.any([np.isinf(x) for x in rows.values()], axis=0)
        if first >= self.trainer.sizes.warmup_iterations:  # a chunk lies wholly before or after it
            bad |= np.any([np.isnan(rows[name]) for name in ALWAYS if name in rows], axis=0)
        for member in np.flatnonzero(bad.any(axis=0)):
            if self.progress.non_finite[member] is None:
                self.progress.non_finite[member] = (first + int(bad[:, member].argmax()) + 1) * self.steps

    def _show(self) -> None:
        means = [self.progress.pending.of(member) for member in range(len(self.members))]
        overall = {key: sum(each[key] for each in means) / len(means) for key in means[0]}
        self.console.progress(self.env_steps, self.size.seconds / self.steps, len(self.members), overall)

    def _report(self) -> None:
        """The log point and the evaluation that follow the current iteration, unless they have been made."""
        iteration = self.progress.iteration
        if iteration == self.progress.reported:
            return
        if self.schedule.log_due(iteration):
            self._log()
        if self.schedule.evaluation_due(iteration):
            self._evaluate()
        self.wandb.commit(self.metrics.offset)
        self.progress.reported = iteration

    def _log(self) -> None:
        for member, fine in enumerate(np.asarray(_all_finite(self.state.learner.params))):
            if not fine and self.progress.non_finite[member] is None:
                self.progress.non_finite[member] = self.env_steps
        absent = dict.fromkeys(TRAIN_KEYS)
        means = [absent | self.progress.pending.of(member) for member in range(len(self.members))]
        self._write([{**self._row("train", member), **mean} for member, mean in enumerate(means)])
        self.progress.pending = Means()

    def _evaluate(self) -> None:
        settings = self.config.evaluation
        episodes = settings.final_episodes if self.progress.iteration == self.schedule.last else settings.episodes
        for policy in settings.policies:
            outcomes = self.trainer.evaluate(
                self.state.learner, self.evaluation_key, self.env_steps, policy, episodes=episodes
            )
            means = {row_key(k): np.asarray(x).astype(np.float64).mean(axis=1) for k, x in outcomes.items()}
            rows = []
            for member in range(len(self.members)):
                measured = {name: float(x[member]) for name, x in means.items()}
                rows.append({**self._row("eval", member), "policy": policy, **measured, "episodes": episodes})
                self.progress.final[member][policy] = {"env_steps": self.env_steps, **measured, "episodes": episodes}
            self._write(rows)
        self._keep_best()

    def _keep_best(self) -> None:
        finals = [final[self.policy] for final in self.progress.final]
        ranked_by = decisive(finals[0])
        values = np.array([[final[metric] for metric in ranked_by] for final in finals])
        for member, (final, own) in enumerate(zip(finals, values.tolist(), strict=True)):
            if own > [self.progress.best[member].get(metric, -math.inf) for metric in ranked_by]:
                self.progress.best[member] = {"policy": self.policy, **final}
        before = self.progress.best_scores
        scores = values.reshape(-1, self.config.seeds, len(ranked_by)).mean(axis=1).tolist()
        better = [score > (old or [-math.inf] * len(score)) for score, old in zip(scores, before, strict=True)]
        if not any(better):
            return
        rows = np.repeat(better, self.config.seeds)
        best = self.checkpoints.best_with(self.state, self.progress.iteration, rows, self.console.warning)
        replaced = best.replaced[:: self.config.seeds]  # of each point
        kept = [score if new else old for score, old, new in zip(scores, before, replaced, strict=True)]
        mean = sum(math.nan if score is None else score[0] for score in kept) / len(kept)
        facts = {"env_steps": self.env_steps, "policy": self.policy, ranked_by[0]: mean}
        try:
            self.checkpoints.save_best(best, self.state.key, facts)
            self.progress.best_scores = kept
        except OSError as error:
            self.console.warning(f"the best learner was not saved, training goes on: {error}")

    def _row(self, kind: str, member: int) -> Row:
        return {
            "kind": kind,
            "env_steps": self.env_steps,
            "grad_steps": self._grad_steps(),
            "seed": self.members[member].seed,
            "member": member,
            "hyper": self.members[member].hyper,
            "wall_time": round(time.monotonic() - self.started, 3),
        }

    def _write(self, rows: list[Row]) -> None:
        try:
            self.metrics.write(rows)
        except OSError as error:
            self.console.warning(f"metrics can't be written, they wait in memory: {error}")

    def _announce_checkpoints(self) -> None:
        size = human_bytes(disk_bytes(self.config, self.trainer.replay_bytes, self.state.learner))
        self.console.message(f"run: {self.run_dir}, its checkpoints take up to about {size} on disk")

    def _save(self) -> None:
        """A checkpoint; one of this iteration that is there already is told what has been reported since."""
        self._update_times()
        try:
            self.metrics.sync()
            host = {
                "env_steps": self.env_steps,
                "metrics_bytes": self.metrics.offset,
                "progress": self.progress.plain(),
                "versions": versions(self.config),
            }
            if self.progress.iteration == self.checkpoints.newest:
                self.checkpoints.amend(host)
            else:
                self.checkpoints.save(self.state, self.progress.iteration, host)
            self.unsaved = ""
        except OSError as error:
            self.unsaved = str(error)
            self.console.warning(f"no checkpoint at {self.env_steps} env steps, training goes on: {error}")
        self.saved_at = time.monotonic()

    def _update_times(self) -> None:
        self.progress.wall_time = time.monotonic() - self.started
        self.progress.compile_seconds = self.compiled_before + self.clock.seconds

    def _finish(self) -> dict[str, Any]:
        self._update_times()
        facts = summary_of(self.config, self.progress, self._grad_steps())
        text = to_json(facts, indent=2)
        try:
            self.metrics.flush()
            if not self.unsaved:  # a run without its last checkpoint is not finished: resuming makes both
                write_text(self.run_dir / "summary.json", text + "\n")
        except OSError as error:
            self.unsaved = str(error)
        self.console.close()
        self.console.message(table_of(self.config, self.progress, self.policy, self.run_dir))
        self.wandb.complete()
        if self.unsaved:
            raise NotSaved(f"{self.run_dir}: its end could not be written; resume it when it can: {self.unsaved}")
        return json.loads(text)
