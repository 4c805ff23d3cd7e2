"""Reading what runs have measured: the members of runs, the lines of a figure that they make, intervals over seeds.

Imports neither jax nor, before it is needed, scipy: a figure should not take longer than a look at it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from meigm_jax.hyper import format_number
from meigm_jax.registry import ConfigError, nearest
from meigm_jax.runs.rows import Row, metric_keys

# What belongs to a run and does not tell one configuration from another.
RUN_ONLY = "seed seeds sweep run_dir name total_env_steps devices evaluation checkpoint log wandb versions".split()
RESAMPLES = 2000  # of the bootstrap
TRIM = 0.25  # at each end: the interquartile mean
NEEDED = {"kind", "env_steps", "seed", "member"}  # of every row


class Member(NamedTuple):
    """One row of a run's batch: a seed, its configuration, and everything it has measured."""

    env: str
    algo: str
    seed: int
    settings: dict[str, str]  # dotted key -> value in words, of what makes its configuration
    run_dir: Path
    written: float  # when the run wrote its last metrics, seconds
    rows: list[Row]


class Measure(NamedTuple):
    """A metric and which rows it is read from."""

    metric: str
    kind: str  # "eval" or "train"
    policy: str | None  # of evaluation rows

    def in_words(self) -> str:
        """As it is called on axes and in headings."""
        metric = self.metric.replace("_", " ")
        return f"{self.policy} {metric}" if self.kind == "eval" else f"{metric} in training"


class Curve(NamedTuple):
    """One metric over training."""

    env_steps: np.ndarray  # i64[K], per seed
    values: np.ndarray  # f64[S, K]; NaN where a seed has no value


class Line(NamedTuple):
    """One line of a figure: an algorithm in one configuration, its seeds pooled."""

    algo: str
    differs: str  # what tells it from the algorithm's other lines, "key=value ..."; empty where there are none
    curve: Curve
    members: tuple[Member, ...] = ()  # one per seed

    @property
    def name(self) -> str:
        """The algorithm and what is special about it."""
        return f"{self.algo} {self.differs}".rstrip()


class Interval(NamedTuple):
    """Mean over seeds and the limits around it (NaN where there are none), f64[K] each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def find_runs(folder: Path) -> list[Path]:
    """Every run directory at or below `folder`, sorted. Raises ConfigError when there is none."""
    if not folder.exists():
        raise ConfigError(f"path does not exist: {folder}")
    found = []
    for path, folders, files in os.walk(folder):
        if {"config.yaml", "metrics.jsonl"} <= set(files):
            found.append(Path(path))
            folders.clear()  # checkpoints
    if not found:
        raise ConfigError(f"no runs found below {folder}: a run has config.yaml and metrics.jsonl")
    return sorted(found)


def read_rows(run_dir: Path) -> list[Row]:
    """Every whole line of the run's metrics.jsonl. Raises OSError where there is none."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def read_members(run_dir: Path) -> list[Member]:
    """Every member of a run that has measured anything. Raises ConfigError when its files can't be read."""
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        env, algo = config["env"]["name"], config["algo"]["name"]
        settings = _flat({key: value for key, value in config.items() if key not in RUN_ONLY})
        written = (run_dir / "metrics.jsonl").stat().st_mtime
        rows_of: dict[int, list[Row]] = {}
        for row in read_rows(run_dir):
            if missing := NEEDED - set(row):
                raise ValueError(f"a row of metrics.jsonl lacks {', '.join(sorted(missing))}")
            rows_of.setdefault(row["member"], []).append(row)
        return [
            Member(
                env,
                algo,
                rows[0]["seed"],
                settings | _flat({"hyper": rows[0].get("hyper", {})}),
                run_dir,
                written,
                rows,
            )
            for rows in rows_of.values()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = error if isinstance(error, OSError) else "its config.yaml or metrics.jsonl is damaged"
        raise ConfigError(f"{run_dir} cannot be read: {reason}") from error


def read(folders: Sequence[Path], warn: Callable[[str], None]) -> dict[str, list[Member]]:
    """Environment -> members of all runs at or below the folders, each run once; `warn` is told what is left out.

    Raises ConfigError when nothing is left.
    """
    by_env: dict[str, list[Member]] = {}
    runs = {run.resolve(): run for folder in folders for run in find_runs(folder)}
    for run in runs.values():
        try:
            members = read_members(run)
        except ConfigError as error:
            warn(f"{error}; it is left out")
            continue
        if not members:
            warn(f"{run} has no metrics yet")
        for member in members:
            by_env.setdefault(member.env, []).append(member)
    if not by_env:
        raise ConfigError(f"no run below {', '.join(map(str, folders))} has any metrics yet")
    return by_env


def measures(members: Iterable[Member]) -> set[Measure]:
    """Everything that at least one of the members has a value of."""
    return {
        Measure(key, row["kind"], row.get("policy"))
        for member in members
        for row in member.rows
        for key in metric_keys(row)
        if not math.isnan(_number(row[key]))
    }


def choose(
    members: Iterable[Member], metric: str | None = None, kind: str | None = None, policy: str | None = None
) -> Measure:
    """The measure asked for; what is left open is win_rate before return, eval before train, greedy before sampled.

    Raises ConfigError, with the metrics that there are, when no member has a value of it.
    """
    fitting = [m for m in measures(members) if kind in (None, m.kind) and policy in (None, m.policy)]
    wanted = [m for m in fitting if (m.metric == metric if metric else m.metric in ("win_rate", "return"))]
    if not wanted:
        what = " ".join(filter(None, (policy, kind, "rows")))
        raise ConfigError(_missing(metric or "win_rate", what, {m.metric for m in fitting}))
    return min(wanted, key=lambda m: (m.metric != "win_rate", m.kind != "eval", m.policy != "greedy", m.policy or ""))


def _missing(metric: str, what: str, known: set[str]) -> str:
    if not known:
        return f"these runs have no {what} with values"
    hint, everything = nearest(metric, known), f"known: {', '.join(sorted(known))}"
    return f"--metric: no {what} have '{metric}'; " + (hint if hint == everything else f"{hint} {everything}")


def pool(members: Iterable[Member], measure: Measure, warn: Callable[[str], None]) -> list[Line]:
    """The lines that members of one environment make: one per algorithm and configuration, with all of its seeds.

    A line has the env steps that all of its seeds have. `warn` is told what is left out.
    """
    configurations: dict[str, dict[tuple[tuple[str, str], ...], list[Member]]] = {}
    for member in _with_values(members, measure, warn):
        key = tuple(sorted(member.settings.items()))
        configurations.setdefault(member.algo, {}).setdefault(key, []).append(member)
    everything = [dict(key) for groups in configurations.values() for key in groups]
    task = {key for key in varied(everything) if key.startswith("env.")}  # to be seen in every line
    lines = []
    for algo, groups in configurations.items():
        differences = _differences([dict(key) for key in groups], task)
        named = sorted(zip(differences, groups.values(), strict=True), key=lambda pair: _natural(pair[0]))
        for difference, group in named:
            differs = " ".join(f"{key}={value}" for key, value in difference.items())
            seeds = _each_seed_once(f"{algo} {differs}".rstrip(), group, warn)
            lines.append(Line(algo, differs, curve(seeds, measure), tuple(seeds)))
            _warn_of_what_is_missing(lines[-1], seeds, measure, warn)
    return [line for line in lines if shared(line.curve).any()]


def curve(members: Iterable[Member], measure: Measure) -> Curve:
    """The values of each member at the env steps that all of them have."""
    return _aligned([_values(member, measure) for member in members])


def varied(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys with several values, one of which may be that the key is not there."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def shared(curve: Curve) -> np.ndarray:
    """bool[K]: where every seed has a value."""
    return ~np.isnan(curve.values).any(axis=0)


def smooth(curve: Curve, points: int) -> Curve:
    """Each seed's mean over the last `points` env steps of the curve, whole windows only."""
    if curve.env_steps.size < points:
        return Curve(curve.env_steps[:0], curve.values[:, :0])
    windows = np.lib.stride_tricks.sliding_window_view(curve.values, points, axis=1)
    return Curve(curve.env_steps[points - 1 :], windows.mean(axis=-1))


def interval(values: np.ndarray, aggregate: str = "mean", band: str = "ci") -> Interval:
    """Mean over the first axis (seeds) with its interval; NaN where a seed has no value. values: f64[S, K].

    `aggregate` is "mean" or "iqm", the interquartile mean (Agarwal et al. 2021, arXiv 2108.13264). `band` is "ci", the
    95 % interval (Student-t for the mean, percentile bootstrap over seeds for the IQM), "range" (of seeds) or "none".
    A single seed has no interval.
    """
    whole = ~np.isnan(values).any(axis=0)
    found = Interval(*np.full((3, values.shape[1]), np.nan))
    values = values[:, whole]
    found.mean[whole] = _interquartile_mean(values) if aggregate == "iqm" else values.mean(axis=0)
    if len(values) > 1 and band != "none":
        if band == "range":
            limits = values.min(axis=0), values.max(axis=0)
        else:
            limits = _bootstrap(values) if aggregate == "iqm" else _student_t(values)
        found.low[whole], found.high[whole] = limits
    return found


def _student_t(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import stdtrit  # the quantile of scipy.stats.t, which takes a second to import

    seeds = len(values)
    mean = values.mean(axis=0)
    half = stdtrit(seeds - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(seeds)
    return mean - half, mean + half


def _bootstrap(values: np.ndarray) -> np.ndarray:
    picks = np.random.default_rng(0).integers(0, len(values), (len(values), RESAMPLES))
    limits = [np.percentile(_interquartile_mean(column[picks]), (2.5, 97.5)) for column in values.T]
    return np.array(limits).reshape(-1, 2).T


def _interquartile_mean(values: np.ndarray) -> np.ndarray:
    from scipy.stats import trim_mean

    return trim_mean(values, TRIM, axis=0)


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Dotted key -> value in words of every leaf but the names of environment and algorithm."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        dotted = f"{path}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{dotted}.")
        elif dotted not in ("env.name", "algo.name"):
            flat[dotted] = _words(value)
    return flat


def _words(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    if isinstance(value, float):
        return format_number(value)
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: Any) -> float:
    """NaN for what is no finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _values(member: Member, measure: Measure) -> dict[int, float]:
    """Env steps -> value, NaN where the row has none."""
    rows = [row for row in member.rows if (row["kind"], row.get("policy")) == (measure.kind, measure.policy)]
    return {row["env_steps"]: _number(row.get(measure.metric)) for row in rows}


def _with_values(members: Iterable[Member], measure: Measure, warn: Callable[[str], None]) -> list[Member]:
    """Members that have measured it at least once."""
    found: list[Member] = []
    without: dict[str, list[Member]] = {}
    for member in members:
        if np.isnan(list(_values(member, measure).values())).all():
            without.setdefault(member.algo, []).append(member)
        else:
            found.append(member)
    for algo, left_out in without.items():
        places = ", ".join(dict.fromkeys(f"{member.run_dir}" for member in left_out))
        seeds = _seeds(sorted({member.seed for member in left_out}))
        warn(f"{algo}: {seeds} without {measure.metric} in any {measure.kind} row, left out: {places}")
    return found


def _each_seed_once(name: str, group: list[Member], warn: Callable[[str], None]) -> list[Member]:
    """One member per seed, in order: the one that has gone furthest, of those the one of the run written last."""
    kept: dict[int, Member] = {}
    replaced: dict[tuple[Path, Path], list[int]] = {}
    for member in sorted(group, key=lambda member: (member.rows[-1]["env_steps"], member.written, member.run_dir)):
        if old := kept.get(member.seed):
            replaced.setdefault((old.run_dir, member.run_dir), []).append(member.seed)
        kept[member.seed] = member
    for (old, new), seeds in replaced.items():
        warn(f"{name}: {_seeds(seeds)} twice, in {old} and {new}; the latter goes further or is newer, and is kept")
    return [kept[seed] for seed in sorted(kept)]


def _aligned(series: list[dict[int, float]]) -> Curve:
    steps = sorted(set.intersection(*map(set, series)))
    values = np.array([[values[step] for step in steps] for values in series], dtype=float)
    return Curve(np.array(steps, dtype=np.int64), values)


def _warn_of_what_is_missing(line: Line, members: list[Member], measure: Measure, warn: Callable[[str], None]) -> None:
    """A mean over some of the seeds is not the mean over the seeds: a line has only what all have, to its first end."""
    drawn = line.curve.env_steps[shared(line.curve)]
    if not drawn.size:
        warn(f"{line.name} is not drawn: its {len(members)} seeds share no env step with values")
        return
    steps = [[step for step, value in _values(m, measure).items() if value == value] for m in members]
    lasts = [max(each) for each in steps]
    some = sorted(step for step in set().union(*steps) - set(drawn.tolist()) if step < drawn[-1])
    if len(some) > drawn.size:
        warn(f"{line.name} has {drawn.size} env steps; {len(some)} more, from {some[0]} on, are not of all its seeds")
    if max(lasts) > drawn[-1]:
        first = [member.seed for member, last in zip(members, lasts, strict=True) if last == min(lasts)]
        warn(f"{line.name} ends at {drawn[-1]} env steps, with {_seeds(first)}; other seeds go on to {max(lasts)}")


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _differences(settings: list[dict[str, str]], always: set[str]) -> list[dict[str, str]]:
    """Of each configuration what tells it from the others, under short keys, and those of `always`.

    A part's options go unnamed where other parts do not have them, unless nothing else makes the difference.
    """
    differing = varied(settings)
    telling = [key for key in differing if len({each[key] for each in settings if key in each}) > 1]
    telling += [key for key in sorted(always) if key not in telling]
    found = [{key: each[key] for key in telling if key in each} for each in settings]
    if len({tuple(each.items()) for each in found}) < len(found):
        telling = list(dict.fromkeys([*differing, *sorted(always)]))
        found = [{key: each.get(key, "unset") for key in telling} for each in settings]
    short = {key: key.partition(".")[2].removesuffix(".name") or key for key in telling}
    if len(set(short.values())) < len(short):
        short = dict(zip(telling, telling, strict=True))
    return [{short[key]: value for key, value in each.items()} for each in found]


def _natural(difference: dict[str, str]) -> list[tuple[float, str]]:
    """Sorts by the values, numbers by size."""

    def place(text: str) -> tuple[float, str]:
        try:
            return float(text), ""
        except ValueError:
            return np.inf, text

    return [place(value) for value in difference.values()]
