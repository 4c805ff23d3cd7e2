"""What the page tells, gathered from the run directories and without any HTML."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from meigm_jax.looks import looks, ranks
from meigm_jax.registry import ConfigError
from meigm_jax.report.statistics import Estimate, improvement, interquartile_mean
from meigm_jax.runs import curves
from meigm_jax.runs.curves import Line, Measure

Warn = Callable[[str], None]
COSTS = "env_steps_per_second compile_seconds peak_memory_bytes".split()  # in summary.json
MAX_GIF = 4_000_000  # bytes of one; `evaluate` keeps to 1 MB


class Run(NamedTuple):
    """A run directory."""

    path: Path
    env: str
    algo: str
    seeds: tuple[int, ...]
    env_steps: int
    wall_time: float  # seconds
    versions: Mapping[str, Any]
    summary: Mapping[str, Any]  # empty before the run is complete


class Final(NamedTuple):
    """The last evaluation that all seeds of a line have."""

    measure: Measure
    env_steps: int
    values: np.ndarray  # f64[S]
    mean: Estimate  # with the Student-t interval
    iqm: Estimate


class Environment(NamedTuple):
    """The lines of one environment."""

    name: str
    measure: Measure  # of the tables, and of the curves at first
    measures: list[Measure]
    lines: list[Line]
    looks: list[dict[str, Any]]  # colour and line style of each line
    finals: dict[str, Final]  # name of each line -> its last evaluation


class Report(NamedTuple):
    """Everything on the page."""

    environments: list[Environment]
    runs: dict[Path, Run]


def gather(folders: Sequence[Path], warn: Warn) -> Report:
    """Everything that the folders' runs tell; `warn` gets what is left out. Raises ConfigError when nothing is left."""
    by_env = curves.read(folders, warn)
    environments = [env for name in sorted(by_env) if (env := _environment(name, by_env[name], warn))]
    if not environments:
        raise ConfigError("nothing to report: these runs have no evaluations yet")
    members: dict[Path, list[curves.Member]] = {}
    for member in (member for env in environments for line in env.lines for member in line.members):
        members.setdefault(member.run_dir, []).append(member)
    return Report(environments, {path: _run(path, found, warn) for path, found in members.items()})


def _environment(name: str, members: Sequence[curves.Member], warn: Warn) -> Environment | None:
    pools = _pools(name, members, warn)
    lines = [line for _, pool in pools for line in pool]
    if not lines:
        return None
    rank = ranks(lines)
    lines = sorted(lines, key=lambda line: rank[line.algo])
    shown = curves.measures(member for line in lines for member in line.members)
    measure_of = {line.name: measure for measure, pool in pools for line in pool}
    finals = {line.name: found for line in lines if (found := final(line, measure_of[line.name]))}
    return Environment(name, pools[0][0], sorted(shown, key=_place), lines, looks(lines), finals)


def _pools(name: str, members: Sequence[curves.Member], warn: Warn) -> list[tuple[Measure, list[Line]]]:
    """The lines that can be judged by the best measure that there is, then by the best for the others, and so on."""
    pools: list[tuple[Measure, list[Line]]] = []
    while members:
        try:
            measure = curves.choose(members)
        except ConfigError:
            runs = dict.fromkeys(f"{member.run_dir}" for member in members)
            warn(f"{name}: no win rate and no return, left out: {', '.join(runs)}")
            break
        measured = [measure in curves.measures([member]) for member in members]
        taken = {line.name for _, pool in pools for line in pool}
        lines = curves.pool(itertools.compress(members, measured), measure, warn)
        kind = f"({measure.policy or 'training'})"
        lines = [
            line._replace(differs=f"{line.differs} {kind}".strip()) if line.name in taken else line for line in lines
        ]
        pools.append((measure, lines))
        members = [member for member, done in zip(members, measured, strict=True) if not done]
    return pools


def _place(measure: Measure) -> tuple[Any, ...]:
    """Evaluations first, greedy ones above all; win rate and return first."""
    first = ["win_rate", "return", "episode_length"]
    place = first.index(measure.metric) if measure.metric in first else len(first)
    return measure.kind != "eval", measure.policy != "greedy", measure.policy or "", place, measure.metric


def _run(path: Path, members: Sequence[curves.Member], warn: Warn) -> Run:
    versions = yaml.safe_load((path / "config.yaml").read_text()).get("versions")
    last = max((row for member in members for row in member.rows), key=lambda row: row["env_steps"])
    return Run(
        path=path,
        env=members[0].env,
        algo=members[0].algo,
        seeds=tuple(dict.fromkeys(member.seed for member in members)),
        env_steps=last["env_steps"],
        wall_time=float(last.get("wall_time") or math.nan),
        versions=versions if isinstance(versions, Mapping) else {},
        summary=_summary(path / "summary.json", last["env_steps"], warn),
    )


def _summary(path: Path, env_steps: int, warn: Warn) -> dict[str, Any]:
    """Its costs, NaN where unknown, and the seeds that became non-finite; empty where the run is not complete.

    That of a run that is being extended is of fewer than its `env_steps`.
    """
    try:
        found = json.loads(path.read_text())
        if found["env_steps"] < env_steps:
            return {}
        for key in COSTS:
            found[key] = float(found.get(key) or math.nan)
        found["non_finite"] = list(dict.fromkeys(seed["seed"] for seed in found["seeds"] if seed.get("non_finite")))
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warn(f"{path} cannot be read: {type(error).__name__}: {error}")
        return {}


def final(line: Line, measure: Measure) -> Final | None:
    """The last evaluation of a line; None where its seeds share none."""
    curve = curves.curve(line.members, measure)
    places = np.flatnonzero(curves.shared(curve))
    if not places.size:
        return None
    values = curve.values[:, places[-1]]
    mean = curves.interval(values[:, None])
    t_interval = Estimate(*(float(each[0]) for each in mean))
    return Final(measure, int(curve.env_steps[places[-1]]), values, t_interval, interquartile_mean([values]))


def together(environments: Sequence[Environment]) -> tuple[list[Environment], dict[str, Estimate]]:
    """The environments with a win rate, and the interquartile mean of each line that all of them have.

    Returns have different scales in different environments, so that their mean would say nothing.
    """
    comparable = [env for env in environments if env.measure.metric == "win_rate"]
    scores = _scores(comparable)
    names = [name for name in _names(scores) if all(name in each for each in scores)]
    return comparable, {name: interquartile_mean([each[name] for each in scores]) for name in names}


def improvements(environments: Sequence[Environment]) -> tuple[list[str], dict[tuple[str, str], tuple[Estimate, int]]]:
    """Names of lines; (X, Y) -> P(X > Y), and the number of environments that both have: only pairs that have one."""
    scores, found = _scores(environments), {}
    for x, y in itertools.combinations(_names(scores), 2):
        if pairs := [(each[x], each[y]) for each in scores if x in each and y in each]:
            estimate = improvement(pairs)
            reverse = Estimate(*(1 - each for each in (estimate.value, estimate.high, estimate.low)))
            found |= {(x, y): (estimate, len(pairs)), (y, x): (reverse, len(pairs))}
    return _names(scores), found


def _scores(environments: Sequence[Environment]) -> list[dict[str, np.ndarray]]:
    return [
        {name: final.values for name, final in env.finals.items() if final.measure == env.measure}
        for env in environments
    ]


def _names(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in scores for name in each))


def differences(env: Environment) -> dict[str, list[str | None]]:
    """Dotted key -> its value in each line, None where it has none; the keys with several values."""
    settings = [line.members[0].settings for line in env.lines]
    return {key: [each.get(key) for each in settings] for key in sorted(curves.varied(settings))}


def differences_between(environments: Sequence[Environment]) -> dict[str, list[str | None]]:
    """Dotted key -> its value in each environment, where all lines of an environment agree and environments do not."""
    settings = [line.members[0].settings for env in environments for line in env.lines]
    within = {key for env in environments for key in differences(env)}
    return {
        key: [env.lines[0].members[0].settings.get(key) for env in environments]
        for key in sorted(curves.varied(settings))
        if key not in within
    }


def runs_of(line: Line) -> list[Path]:
    """The run directories of a line's seeds."""
    return list(dict.fromkeys(member.run_dir for member in line.members))


def gifs(env: Environment, warn: Warn) -> Iterator[tuple[Line, Path, bytes]]:
    """The newest GIF in the run directories of each line that has one."""
    for line in env.lines:
        found = [path for run in runs_of(line) for path in run.glob("*.gif")]
        for path in sorted(found, key=lambda path: path.stat().st_mtime)[-1:]:
            try:
                data = path.read_bytes()
            except OSError as error:
                warn(f"{path} is left out: {error.strerror}")
                continue
            if not data.startswith(b"GIF8"):
                warn(f"{path} is left out: it is no GIF")
            elif len(data) > MAX_GIF:
                warn(f"{path} is left out: it has more than {MAX_GIF / 1e6:.0f} MB")
            else:
                yield line, path, data
