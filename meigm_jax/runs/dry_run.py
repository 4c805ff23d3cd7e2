"""`--dry-run`: what runs would be and take. Nothing is written, and nothing compiled but two small measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import yaml

from meigm_jax.config import Config, members_in_words, num_members, run_directory, steps_per_iteration, to_dict
from meigm_jax.engine import train_step
from meigm_jax.engine.evaluation import evaluate
from meigm_jax.engine.train_step import TrainState
from meigm_jax.registry import ConfigError
from meigm_jax.runs.checkpoint import disk_bytes, tree_bytes
from meigm_jax.runs.cost import FLOPS_PER_ELEMENT, Rates, Work, measure, work_of
from meigm_jax.runs.devices import devices_of
from meigm_jax.runs.job import Job
from meigm_jax.runs.machine import check_replay_fits, human_bytes
from meigm_jax.runs.progress import Schedule
from meigm_jax.runs.saved import finished_checkpoints, read_config
from meigm_jax.runs.trainer import Trainer, make_trainer, member_hypers, member_seeds

# What reading the files of a run of another version, or damaged ones, may raise.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError)


class Planned(NamedTuple):
    """A run that is not begun."""

    config: Config
    trainer: Trainer
    state: TrainState  # shapes only, [S, ...]


class Cost(NamedTuple):
    """What a run takes."""

    seconds: float
    replay_bytes: int


class Earlier(NamedTuple):
    """A finished run of the same environment and algorithm on the same kind of device."""

    run_dir: Path
    env_steps_per_second: float
    factor: float  # seconds that its iterations took, over the estimate for them


def report(jobs: Sequence[Job]) -> None:
    """Print each run's configuration (of further runs what differs), memory, sizes, estimated time, and the sum.

    Raises ConfigError, after that, when a replay does not fit: without --dry-run its run would not start either.
    """
    rates, total, problems = measure(), 0.0, []
    first = to_dict(jobs[0].config)
    for number, job in enumerate(jobs, start=1):
        shown = first if number == 1 else _changed(to_dict(job.config), first)
        print(yaml.safe_dump(shown, sort_keys=False) if shown else "")
        run_dir, planned = job.resume or run_directory(job.config), _planned(job.config)
        print(f"run {number} of {len(jobs)}: {run_dir}")
        try:
            print(f"  {check_replay_fits(job.config, planned.trainer.replay_bytes)}")
        except ConfigError as problem:
            print(f"  does not fit: {problem}")
            problems.append(problem)
        total += _report_run(planned, run_dir, job.resume, rates)
        print()
    if len(jobs) > 1:
        print(f"all {len(jobs)} runs, one after the other: about {human_time(total)}")
    print(_basis(rates))
    if problems:
        raise problems[0]


def estimate(config: Config, rates: Rates) -> Cost:
    """What a run from its start takes, by counting its operations."""
    planned = _planned(config)
    return Cost(_run_seconds(planned, rates, 0), planned.trainer.replay_bytes)


def _changed(new: Any, old: Any) -> Any:
    """What of `new` is not in `old`."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {key: _changed(value, old.get(key)) for key, value in new.items() if key not in old or value != old[key]}


def _planned(config: Config) -> Planned:
    trainer = make_trainer(config, 1)
    return Planned(config, trainer, jax.eval_shape(trainer.init, member_seeds(config), member_hypers(config)))


def _report_run(planned: Planned, run_dir: Path, resume: Path | None, rates: Rates) -> float:
    """Print what one run takes besides its replay; its estimated seconds."""
    config, trainer, state = planned
    schedule = Schedule(config)
    newest = finished_checkpoints(run_dir, "newest")[:1] if resume is not None else []
    done = min(sum(int(folder.name) for folder in newest), schedule.last)
    grad_steps = int(trainer.sizes.grad_steps(schedule.last) - trainer.sizes.grad_steps(done))
    disk = human_bytes(disk_bytes(config, trainer.replay_bytes, state.learner))
    print(f"  {_parameters(state, members_in_words(config))}")
    print(f"  checkpoints: up to about {disk} on disk")
    left, each = "left for" if done else "of", "member" if config.sweep else "seed"
    print(
        f"  {left} each {each}: {schedule.last - done} iterations of {steps_per_iteration(config)} env steps, "
        f"{grad_steps} gradient steps, evaluations: {schedule.evaluations(done)}"
    )
    seconds = _run_seconds(planned, rates, done)
    earlier = _earlier(config, run_dir, rates)
    if earlier is None:
        print(f"  time: about {human_time(seconds)}")
        return seconds
    seconds *= earlier.factor
    speed = f"{earlier.env_steps_per_second:.0f} env steps/s"
    print(f"  time: about {human_time(seconds)}, from the {speed} of {earlier.run_dir}")
    return seconds


def _basis(rates: Rates) -> str:
    speed = f"{rates.flops / 1e9:.3g} GFLOP/s in matrix products"
    if jax.default_backend() == "cpu":
        speed = f"this device does {speed} (measured now)"
        fitted = "fitted to SMAX on two CPU cores"
    else:
        speed = f"{rates.kernel_seconds * 1e6:.2g} us per kernel, {speed}"
        fitted = "fitted to SMAX on an NVIDIA H100; another device is not measured"
    return (
        "Times are rough, for a machine that does nothing else, and leave out compilation. Where no earlier run tells\n"
        f"the speed, operations are counted: {speed}, and\nan element of any other operation takes as long as "
        f"{FLOPS_PER_ELEMENT:g} of those ({fitted})."
    )


def _parameters(state: TrainState, members_in_words: str) -> str:
    """Their number by group, and the bytes of what learning changes."""
    members, params = state.key.shape[0], state.learner.params
    groups = params._asdict() if hasattr(params, "_asdict") else {"all": params}
    counts = {name: sum(x.size for x in jax.tree.leaves(group)) // members for name, group in groups.items()}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    own, learner = (human_bytes(tree_bytes(tree) // members) for tree in (params, state.learner))
    each = "" if members == 1 else f" for each of {members_in_words}"
    return f"parameters: {sum(counts.values())} ({listed}), {own}; with target and optimizer {learner}{each}"


def _seconds(planned: Planned, work: Work, rates: Rates) -> float:
    """`work` for every member. Devices of the CPU share its cores, so there all members count."""
    members, devices = num_members(planned.config), devices_of(planned.config)
    if devices[0].platform != "cpu":
        members //= min(members, len(devices))
    return rates.seconds(work, members, planned.trainer.sizes.in_turn)


def _member(planned: Planned) -> TrainState:
    """The shapes of one member's state."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), planned.state)


def _run_seconds(planned: Planned, rates: Rates, done: int) -> float:
    """What follows iteration `done`."""
    iterations = Schedule(planned.config).last - done
    return iterations * _iteration_seconds(planned, rates) + _evaluation_seconds(planned, rates, done)


def _iteration_seconds(planned: Planned, rates: Rates) -> float:
    trainer = planned.trainer
    step = partial(train_step.train_step, trainer.env, trainer.algorithm, trainer.sizes)
    return _seconds(planned, work_of(step, _member(planned), jnp.int32(0)), rates)


def _evaluation_seconds(planned: Planned, rates: Rates, done: int) -> float:
    """All evaluations that follow iteration `done`."""
    settings, work, member = planned.config.evaluation, Work(), _member(planned)
    play = partial(evaluate, planned.trainer.env, planned.trainer.algorithm, num_envs=settings.num_envs)
    if count := Schedule(planned.config).evaluations(done):
        for policy in settings.policies:
            for episodes, times in ((settings.episodes, count - 1), (settings.final_episodes, 1)):
                chosen = partial(play, episodes=episodes, policy=policy)
                work = work.plus(work_of(chosen, member.learner, member.key, jnp.int32(0)), times)
    return _seconds(planned, work, rates)


def _earlier(config: Config, run_dir: Path, rates: Rates) -> Earlier | None:
    """The newest comparable run beside `run_dir` that was finished."""
    summaries = run_dir.parent.glob("*/summary.json")
    for file in sorted(summaries, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            old, facts = _finished(file)
            if (old.env.name, old.algo.name) != (config.env.name, config.algo.name):
                continue
            speed = float(facts["env_steps_per_second"])
            seconds = num_members(old) * steps_per_iteration(old) / speed
            return Earlier(file.parent, speed, seconds / _iteration_seconds(_planned(old), rates))
        except UNREADABLE:
            continue  # no help, and no harm
    return None


def _finished(file: Path) -> tuple[Config, dict[str, Any]]:
    """Configuration and summary of a finished run. Raises ValueError when it was trained on another kind of device."""
    versions = yaml.safe_load((file.parent / "config.yaml").read_text())["versions"]
    if versions["device"] != jax.devices()[0].device_kind:
        raise ValueError("another device")
    return read_config(file.parent, "run"), json.loads(file.read_text())


def human_time(seconds: float) -> str:
    """90 -> '90 s'; 5400 -> '90 min'."""
    units = (("s", 1), ("min", 60), ("h", 3600), ("days", 86400))
    unit, size = next((each for each in units if seconds < 100 * each[1]), units[-1])
    count = seconds / size
    return f"{count:.2g} {unit}" if count < 10 else f"{count:.0f} {unit}"
