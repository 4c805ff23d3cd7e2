"""Units of learning evidence: one environment and one algorithm, several seeds, at one of three budgets.

A unit that was interrupted goes on where it was saved; one whose curves are in the results with as many env steps and
seeds is not run again. Runs go to experiments/runs/units/<budget>/<env>/<unit>, and become CSV files that tables and
figures are made from: results/learning_curves for the budget `cpu`, a folder of its own there for `full`, and
experiments/runs for `smoke`. `<env>.csv` holds the greedy evaluations, `<env>.<policy>.csv` others,
`<env>.<metric>.csv` what was measured in training, `<env>.json` configuration and cost.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from meigm_jax import train
from meigm_jax.runs import curves
from meigm_jax.runs.saved import read_config

HERE = Path(__file__).parent
RUNS = HERE / "runs" / "units"
RESULTS = HERE / "results" / "learning_curves"
POLICIES = ("greedy", "sampled", "mode")
IN_TRAINING = ("misalignment", "entropy", "alpha")  # metrics of training that are kept, where an algorithm has them
POINTS = 50  # of such a metric over a training: means of as many stretches
RANDOM = ("algo=qmix", "algo.name=random", "hyper.epsilon_start=1", "hyper.epsilon_end=1", "total_env_steps=1")
RANDOM += ("evaluation.policies=[sampled]",)
BY_BOTH = ("me_qmix", "me_qmix_mlp")  # on SMAX also evaluated by the argmax of their policies, for Table 4


class Budget(NamedTuple):
    """What a unit may cost."""

    steps: float  # env steps per seed
    seeds: int
    episodes: int  # per seed, policy and evaluation
    arguments: tuple[str, ...] = ()  # further ones of the trainer


class Unit(NamedTuple):
    """A name stands for the same arguments everywhere."""

    env: str
    name: str
    arguments: tuple[str, ...] = ()  # of the trainer; none: algo=<name>
    cpu: Budget | None = None  # in place of the CPU's budget for its environment

    def told(self) -> tuple[str, ...]:
        """Its arguments of the trainer."""
        if self.name == "random":
            return RANDOM
        both = ("evaluation.policies=[greedy,mode]",) if self.name in BY_BOTH and self.env.startswith("smax") else ()
        return (*(self.arguments or (f"algo={self.name}",)), *both)


BUDGETS = {
    "smoke": Budget(2048, 2, 4, ("+experiment=smoke",)),
    "cpu": Budget(1e6, 3, 256),
    "full": Budget(1e7, 5, 256, ("+experiment=gpu",)),
}
# Of the CPU's budget, by the beginning of an environment's name or the size of its teams: at most 90 minutes a unit.
CPU = {
    "overcooked": Budget(5e6, 3, 32),
    "smax_3m": Budget(2e6, 3, 256),
    "smax_5v5": Budget(2e6, 3, 256),
    "_5v5": Budget(1e6, 4, 256),  # of the races
    "10v10": Budget(4e5, 3, 256),
    "10v11": Budget(4e5, 3, 256),
    "20v20": Budget(4e5, 3, 256),
    "20v23": Budget(1e5, 3, 256),
}


def budget(name: str, unit: Unit) -> Budget:
    """The budget `name` for a unit."""
    if name != "cpu":
        return BUDGETS[name]
    own = [each for key, each in CPU.items() if unit.env.startswith(key) or unit.env.endswith(key)]
    return unit.cpu or next(iter(own), BUDGETS[name])


def results_of(name: str) -> Path:
    """The folder of a budget's curves."""
    return {"smoke": RUNS / "smoke_results", "cpu": RESULTS, "full": RESULTS / "full"}[name]


def run(unit: Unit, name: str, asked: Budget, folder: Path, shows: tuple[str, ...] = ()) -> None:
    """Train all seeds of a unit, or go on with them, and keep its curves in `folder`, unless they are there."""
    if finished(unit, folder, asked, shows):
        return
    run_dir = RUNS / name / unit.env / unit.name
    if (run_dir / "config.yaml").exists():
        if (seeds := read_config(run_dir, "resume").seeds) < asked.seeds and unit.name != "random":
            raise SystemExit(f"{run_dir} has {seeds} of {asked.seeds} seeds; delete it to train them all")
        arguments = [f"resume={run_dir}", f"total_env_steps={asked.steps:.0f}"]
    else:
        arguments = [*arguments_of(unit, asked), f"run_dir={run_dir}"]
    if not (unit.name == "random" and (run_dir / "summary.json").exists()) and (code := train.main(arguments)):
        raise SystemExit(code)
    keep(unit, run_dir, folder)


def arguments_of(unit: Unit, asked: Budget) -> list[str]:
    """What the trainer is told."""
    sizes = {"seeds": asked.seeds, "total_env_steps": f"{asked.steps:.0f}"}
    sizes |= {f"evaluation.{key}": asked.episodes for key in ("episodes", "final_episodes")}
    return [f"+env={unit.env}", *asked.arguments, *(f"{key}={value}" for key, value in sizes.items()), *unit.told()]


def finished(unit: Unit, folder: Path, asked: Budget, shows: tuple[str, ...] = ()) -> bool:
    """Whether its curves are there, with as many env steps and seeds, and at all of what a study shows."""
    for path in (path_of(folder, unit.env, what) for what in shows):
        if not path.exists() or not of_unit(read_csv(path)[1], unit.name):
            return False
    for path in (folder / f"{unit.env}.csv", folder / f"{unit.env}.sampled.csv"):
        lines = of_unit(read_csv(path)[1], unit.name) if path.exists() else {}
        if lines:
            enough = all(c.env_steps[-1] >= asked.steps and len(c.values) >= asked.seeds for c in lines.values())
            return enough or unit.name == "random"
    return False


def of_unit(lines: dict[str, curves.Curve], name: str) -> dict[str, curves.Curve]:
    """The lines of a unit: several where it sweeps a hyper-parameter, "<name> key=value"."""
    return {line: curve for line, curve in lines.items() if line.split(" ")[0] == name}


def keep(unit: Unit, run_dir: Path, folder: Path) -> None:
    """Put the curves of a run in place of the unit's earlier ones, and the facts about it."""
    folder.mkdir(parents=True, exist_ok=True)
    members = curves.read_members(run_dir)
    for policy in POLICIES:
        if any(row.get("policy") == policy for member in members for row in member.rows):
            measure = curves.choose(members, kind="eval", policy=policy)
            replace(path_of(folder, unit.env, policy), measure.metric, unit.name, lines(unit, members, measure))
    for metric in IN_TRAINING:
        measure = curves.Measure(metric, "train", None)
        if measure in curves.measures(members):
            found = {name: thinned(curve) for name, curve in lines(unit, members, measure).items()}
            replace(path_of(folder, unit.env, metric), metric, unit.name, found)
    path = folder / f"{unit.env}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted((earlier | {unit.name: facts(run_dir)}).items())), indent=1) + "\n")


def path_of(folder: Path, env: str, what: str = "greedy") -> Path:
    """The CSV of a policy's evaluations, or of a metric of training."""
    return folder / (f"{env}.csv" if what == "greedy" else f"{env}.{what}.csv")


def lines(unit: Unit, members: list[curves.Member], measure: curves.Measure) -> dict[str, curves.Curve]:
    return {f"{unit.name} {line.differs}".rstrip(): line.curve for line in curves.pool(members, measure, print)}


def thinned(curve: curves.Curve) -> curves.Curve:
    """Means of at most POINTS stretches."""
    whole = curves.shared(curve)
    steps, values = curve.env_steps[whole], curve.values[:, whole]
    parts = [part for part in np.array_split(np.arange(len(steps)), POINTS) if part.size]
    means = np.stack([values[:, part].mean(axis=1) for part in parts], axis=1)
    return curves.Curve(np.array([steps[part[-1]] for part in parts]), means)


def facts(run_dir: Path) -> dict[str, Any]:
    """What a reader needs to judge a unit: its configuration's own words and its cost."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    found = {key: config[key] for key in ("seeds", "seed", "hyper", "sweep", "train", "replay", "versions")}
    found["agent"] = config["algo"]["agent"]
    found["episodes"] = config["evaluation"]["episodes"]
    if (run_dir / "summary.json").exists():
        summary = json.loads((run_dir / "summary.json").read_text())
        found |= {key: summary[key] for key in ("env_steps", "env_steps_per_second", "wall_time")}
    else:  # not finished: as far as it came
        last = curves.read_members(run_dir)[0].rows[-1]
        found |= {key: last[key] for key in ("env_steps", "wall_time")}
    return found


def replace(path: Path, metric: str, name: str, found: dict[str, curves.Curve]) -> None:
    """Write the lines of the unit `name` in place of those it had."""
    earlier = read_csv(path)[1] if path.exists() else {}
    others = {line: curve for line, curve in earlier.items() if line not in of_unit(earlier, name)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["algo", "member", "env_steps", metric])
        for line, curve in sorted((others | found).items()):
            for member, values in enumerate(curve.values):
                rows = zip(curve.env_steps, values, strict=True)
                writer.writerows([line, member, int(step), f"{float(value):.5g}"] for step, value in rows)


def read_csv(path: Path) -> tuple[curves.Measure, dict[str, curves.Curve]]:
    """What was measured, and each line's curve."""
    with path.open() as file:
        header, *rows = list(csv.reader(file))
    found = {}
    for name in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == name]
        steps, members = sorted({int(row[2]) for row in mine}), sorted({int(row[1]) for row in mine})
        values = {(int(row[1]), int(row[2])): float(row[3]) for row in mine}
        found[name] = curves.Curve(np.array(steps), np.array([[values[m, t] for t in steps] for m in members]))
    what = path.stem.split(".")[1] if "." in path.stem else "greedy"
    return curves.Measure(header[3], *(("eval", what) if what in POLICIES else ("train", None))), found


def line(name: str, curve: curves.Curve) -> curves.Line:
    """As `plot` draws it."""
    algo, _, differs = name.partition(" ")
    return curves.Line(algo, differs, curve)


def env_of(path: Path) -> str:
    """The environment of a CSV file."""
    return path.name.split(".")[0]
