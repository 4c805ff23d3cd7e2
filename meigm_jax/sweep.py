"""Several runs of one command: where each of them goes, the plan that is kept, and going through it, in one sitting or
in several. (The values of hyper-parameters that `sweep.NAME` gives are another matter: these are members of one run.)
Imports no jax: a wrong command must be answered at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml

from meigm_jax.config import TIME_FORMAT, Config, build, run_directory, to_dict
from meigm_jax.hyper import format_hyper
from meigm_jax.registry import ConfigError
from meigm_jax.runs.files import NotSaved, free, taken, write_text
from meigm_jax.runs.job import Job
from meigm_jax.runs.logger import say
from meigm_jax.runs.rows import decisive, main_policy

FOLDER = Path("runs", "sweeps")  # of those without a run_dir
PLAN = "sweep.yaml"
LOCK = "sweep.lock"  # held by the process that goes through the sweep; lists the runs that have been started
HEADER = (
    "# The runs of a sweep, in their order. It is read when the sweep is resumed; folders are relative to this one.\n"
)


class Taken(ConfigError):
    """Another sweep has this folder."""


class Outcome(NamedTuple):
    """What became of a job: the content of summary.json, or what went wrong and the exit code for that."""

    job: Job
    summary: dict[str, Any] | None
    problem: str = ""
    code: int = 0


def lay_out(runs: Sequence[tuple[str, Config]]) -> list[Job]:
    """Give each of several configurations a run directory of its own; all of them share one name.

    With each comes the experiment that tells it from the others, if one does. A sweep that is named after the time gets
    a number besides where another was started in the same second. Raises ConfigError when two runs would meet or the
    folder of the sweep is not empty.
    """
    common = runs[0][1]
    name = common.name or free(FOLDER / datetime.now().strftime(TIME_FORMAT)).name
    folder = Path(common.run_dir) if common.run_dir else FOLDER / name
    if taken(folder):
        what = "run_dir" if common.run_dir else "name"
        go_on = f", or go on with resume={shlex.quote(str(folder))}" if (folder / PLAN).is_file() else ""
        raise ConfigError(f"{what}: {folder} exists; choose another {what}{go_on}")
    jobs: dict[Path, Job] = {}
    for experiment, config in runs:
        run_dir = str(folder / config.env.name / config.algo.name / experiment) if common.run_dir else None
        config = replace(config, run_dir=run_dir, name=f"{name}_{experiment}" if experiment else name)
        if run_directory(config) in jobs:
            raise ConfigError(f"two of {len(runs)} runs would share the run directory {run_directory(config)}")
        jobs[run_directory(config)] = Job(config, None, folder)
    return list(jobs.values())


def read(folder: Path) -> list[Config]:
    """The planned configuration of every run of the sweep in `folder`, with the run directory where it is now.

    Raises ConfigError when the plan is damaged, or a run was started and is gone.
    """
    try:
        plan = yaml.load((folder / PLAN).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        jobs = {Path(os.path.normpath(folder / job["run_dir"])): build(job["config"]) for job in plan["jobs"]}
        started = (folder / LOCK).read_text().splitlines() if (folder / LOCK).exists() else []
    except Exception as error:  # the YAML parser has many ways to say that a file is damaged
        reason = str(error) if isinstance(error, ConfigError | OSError | yaml.YAMLError) else "it is no plan of a sweep"
        raise ConfigError(f"resume: cannot use '{folder / PLAN}': {reason}") from error
    if len(jobs) < len(plan["jobs"]) or not jobs:
        raise ConfigError(f"resume: cannot use '{folder / PLAN}': it lists no run, or one twice")
    for job, path in zip(plan["jobs"], jobs, strict=True):
        if job["run_dir"] in started and not path.exists():
            raise ConfigError(
                f"resume: '{path}' was started and is gone; put it back, or make an empty folder to train it again"
            )
    return [
        config if run_directory(config) == path else replace(config, run_dir=str(path)) for path, config in jobs.items()
    ]


def train(jobs: Sequence[Job], run: Callable[..., dict[str, Any]], new: bool) -> int:
    """Go through the jobs, one after the other, and print a table at the end; the exit code.

    A job that fails is reported, and the others are trained all the same. Raises ConfigError before anything starts,
    Taken where another sweep was faster, and SystemExit or KeyboardInterrupt of the job that was stopped. new: the
    sweep has no plan yet.
    """
    folder = jobs[0].sweep
    assert folder is not None
    again = f"python -m meigm_jax.train resume={shlex.quote(str(folder))}"
    with _lock(folder) as lock:
        if new and (folder / PLAN).exists():
            raise Taken(f"{folder} exists; choose another name or run_dir")
        _write(folder, jobs)
        outcomes = []
        try:
            for job in jobs:
                _remember(lock, folder, jobs)
                outcomes.append(_outcome(job, run))
        except (KeyboardInterrupt, SystemExit):
            say(f"sweep stopped; resume all of it: {again}", sys.stdout)
            raise
        finally:
            _remember(lock, folder, jobs)
    say(_report(folder, outcomes), sys.stdout)
    if failed := [outcome for outcome in outcomes if outcome.summary is None]:
        say(f"error: {len(failed)} of {len(jobs)} runs failed; try them again: {again}", sys.stderr)
    return max(outcome.code for outcome in outcomes)


def _outcome(job: Job, run: Callable[..., dict[str, Any]]) -> Outcome:
    try:
        return Outcome(job, run(job.config, resume=job.resume))
    except (ConfigError, NotSaved) as error:
        problem, code = " ".join(str(error).split()), 2 if isinstance(error, ConfigError) else 1
    except Exception as error:  # one run that does not fit into memory is no reason to lose the others
        traceback.print_exc()
        problem, code = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", 1
    finally:
        _free_memory()
    say(f"error: {run_directory(job.config)}: {problem}", sys.stderr)
    return Outcome(job, None, problem, code)


def _free_memory() -> None:
    """Let go of the compiled programs of a finished job, and of its peak of memory."""
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted anew


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[TextIO]:
    """The lock of the sweep, an open file. Raises ConfigError when another process has it, or it can't be made."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / LOCK, "a+"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(f"{folder}: another process is training this sweep") from None
        except OSError as error:
            raise ConfigError(f"run_dir: cannot use {folder}: {error.strerror}") from error
        yield lock


def _write(folder: Path, jobs: Sequence[Job]) -> None:
    """The plan: the folder and the whole configuration of every job."""
    plan = [{"run_dir": _name(folder, job), "config": to_dict(job.config)} for job in jobs]
    try:
        write_text(folder / PLAN, HEADER + yaml.safe_dump({"jobs": plan}, sort_keys=False))
    except OSError as error:
        if not (folder / PLAN).exists():  # without its plan it is no sweep
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()
        raise ConfigError(f"run_dir: cannot write {folder / PLAN}: {error.strerror}") from error


def _name(folder: Path, job: Job) -> str:
    return os.path.relpath(run_directory(job.config), folder)


def _remember(lock: TextIO, folder: Path, jobs: Sequence[Job]) -> None:
    """Note which runs have been started."""
    lock.seek(0)
    known = lock.read().splitlines()
    names = [_name(folder, job) for job in jobs if (run_directory(job.config) / "config.yaml").exists()]
    with contextlib.suppress(OSError):
        lock.write("".join(f"{name}\n" for name in names if name not in known))
        lock.flush()


def _report(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """A table of the final evaluations, and where everything lies."""
    rows = [("env", "algo", "seeds", "evaluation", "mean", "95 % interval", "run")]
    for outcome in outcomes:
        config = outcome.job.config
        results = [("", outcome.problem, "", "")] if outcome.summary is None else _results(outcome.summary)
        for point, what, mean, found in results:
            algo, place = f"{config.algo.name} {point}".rstrip(), str(run_directory(config))
            rows.append((config.env.name, algo, str(config.seeds), what, mean, found, place))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    done = [run_directory(outcome.job.config) for outcome in outcomes if outcome.summary is not None]
    inside = all(path.is_relative_to(folder) for path in done)
    if done:
        where = " ".join(shlex.quote(str(path)) for path in ([folder] if inside else done))
        lines.append(f"curves: python -m meigm_jax.plot {where} --out {shlex.quote(str(folder / 'curves.png'))}")
    return "\n".join([*lines, f"sweep: {folder / PLAN}"])


def _results(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """For each point of the run's grid: its values, what was evaluated, its mean over the seeds, 95 % interval."""
    points = itertools.groupby(summary["seeds"], lambda member: member["hyper"])
    return [(format_hyper(hyper), *_result([member["final"] for member in members])) for hyper, members in points]


def _result(finals: list[dict[str, Any]]) -> tuple[str, str, str]:
    import numpy as np

    from meigm_jax.runs.curves import interval  # imports scipy

    policy = main_policy(finals[0])
    metric = decisive(finals[0][policy])[0]
    values = [final[policy][metric] for final in finals]
    what = f"{policy} {metric.replace('_', ' ')}"
    if None in values:
        return what, "not finite", ""
    found = interval(np.array(values, np.float64)[:, None])
    known = len(values) > 1
    return what, f"{found.mean[0]:.4g}", f"{found.low[0]:.4g} to {found.high[0]:.4g}" if known else "-"
