"""Evaluation over training, several algorithms and seeds per environment: curves, CSV and a table.

    python experiments/learning_curves.py all                        # ME-QMIX and QMIX on the eight environments
    python experiments/learning_curves.py smax_3m --algos qmix me_qmix --seeds 3 --steps 2e6
    python experiments/learning_curves.py                            # only redraw

One unit is one environment and one algorithm, see units.py; `random` among the algorithms plays uniformly and learns
nothing. Results go to experiments/results/learning_curves.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pages
import units
from study import mean_with_interval
from units import Unit, env_of, read_csv

from meigm_jax import plot
from meigm_jax.report import statistics
from meigm_jax.runs import curves

EVIDENCE = [f"smax_{name}" for name in "3m 2s3z 5v5 protoss_5v5 terran_5v5 zerg_5v5".split()]
EVIDENCE += ["overcooked_cramped_room", "overcooked_asymm_advantages"]
COLUMNS = {"400k": 400_000, "1M": 1_000_000, "2M": 2_000_000, "4M": 4_000_000, "5M": 5_000_000}
SECTIONS = ("hyper", "train", "agent")  # of a configuration, in which algorithms of one environment may differ
SLACK = 20_000  # env steps: an evaluation counts for a column this near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", help="environments, such as smax_3m; all: the eight; none: only redraw")
    parser.add_argument("--algos", nargs="+", default=["me_qmix", "qmix"])
    parser.add_argument("--budget", choices=tuple(units.BUDGETS), default="cpu")
    parser.add_argument("--seeds", type=int, help="(default: the budget's)")
    parser.add_argument("--steps", type=float, help="env steps per seed (default: the budget's)")
    parser.add_argument("--episodes", type=int, help="per seed, policy and evaluation (default: the budget's)")
    options = parser.parse_args()
    own = {key: value for key in ("seeds", "steps", "episodes") if (value := getattr(options, key)) is not None}
    folder = units.results_of(options.budget)
    for env in EVIDENCE if options.envs == ["all"] else options.envs:
        for algo in options.algos:
            unit = Unit(env, algo)
            units.run(unit, options.budget, units.budget(options.budget, unit)._replace(**own), folder)
            write(folder)
    write(folder)


def write(folder: Path) -> None:
    """Figures and README, from the CSV files of the folder."""
    found = {path: read_csv(path) for path in sorted(folder.glob("*.csv"))}
    evaluated = {path: lines for path, (measure, lines) in found.items() if measure.kind == "eval"}
    for path, lines in evaluated.items():
        draw(path, found[path][0], lines)
    text = [intro(folder), "\n".join(table(evaluated, folder)), *improvement(evaluated), *differences(folder)]
    for path in sorted(folder.glob("*.png")):
        policy = "".join(f", {name} policy" for name in units.POLICIES if f".{name}." in path.name)
        text.append(f"![{env_of(path)}{policy}]({path.name})")
    pages.write(folder, "\n\n".join(text) + "\n")


def intro(folder: Path) -> str:
    full = folder == units.results_of("full")
    command = "python experiments/learning_curves.py" + (" --budget full" if full else "")
    return INTRO.format(command=command, more=OF_FULL if full else FURTHER if folder == units.results_of("cpu") else "")


INTRO = """# Learning curves

Made by `{command}` and the scripts of tables and figures, which share
their units. Win rate where the environment has one, else return in its own units; mean over seeds with the 95 %
Student-t interval of the mean: in the table, and as bands in the figures, which are drawn from the CSV files. The JSON
files hold configuration, versions, device and cost. Steps/s are of all seeds together; several units shared a device,
mostly two CPU cores: they tell what the curves cost, not how fast the trainer can be. `random` plays uniformly and
learns nothing. {more}"""
FURTHER = "Further curves, to 10M env steps on\na GPU as far as they have been run, are in [full](full/README.md)."
OF_FULL = """These are to go to
10M env steps; shorter ones were not continued. The races were trained with `+experiment=gpu`; `smax_5v5`, once,
with SMAX's own batches of 4 sequences and in 64 environments."""


def draw(path: Path, measure: curves.Measure, found: dict[str, curves.Curve]) -> None:
    """The figure of one environment and policy, beside its CSV."""
    if set(found) == {"random"}:
        return  # a single point, which the table tells
    lines = [units.line(name, curve) for name, curve in found.items()]
    plot.draw(path.with_suffix(".png"), plot.figure(lines, env_of(path), measure))


def table(evaluated: dict[Path, dict[str, curves.Curve]], folder: Path) -> list[str]:
    rows = [
        f"| environment | policy | algorithm | seeds x episodes | {' | '.join(COLUMNS)} | last | steps/s |",
        f"|---|---|---|---|{'---|' * len(COLUMNS)}---|---|",
    ]
    for path, lines in evaluated.items():
        facts = json.loads((folder / f"{env_of(path)}.json").read_text())
        policy = path.stem.removeprefix(env_of(path)).removeprefix(".") or "greedy"
        for name, curve in lines.items():
            fact, last = facts[name.split(" ")[0]], int(curve.env_steps[-1])
            cells = [cell(curve, steps) for steps in COLUMNS.values()]
            cells.append(
                mean_with_interval(curve.values[:, -1]) + ("" if name == "random" else f" at {last / 1e6:.2g}M")
            )
            speed = 0 if name == "random" else fact.get("env_steps_per_second", 0)
            size = f"{len(curve.values)} x {fact['episodes']}"
            cells = (env_of(path), policy, name, size, *cells, f"{speed:.0f}" if speed else "")
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def cell(curve: curves.Curve, steps: int) -> str:
    """The evaluation at `steps`, give or take the size of an iteration, or a dash."""
    at = np.flatnonzero(np.abs(curve.env_steps - steps) <= SLACK)
    return mean_with_interval(curve.values[:, at[-1]]) if at.size else "-"


def improvement(evaluated: dict[Path, dict[str, curves.Curve]]) -> list[str]:
    """ME-QMIX against QMIX at the last env steps that both have."""
    rows = ["| environment | env steps | P(ME-QMIX > QMIX) |", "|---|---|---|"]
    for path, lines in evaluated.items():
        if path.stem == env_of(path) and {"me_qmix", "qmix"} <= lines.keys():
            ours, theirs = lines["me_qmix"], lines["qmix"]
            step = int(np.intersect1d(ours.env_steps, theirs.env_steps)[-1])
            mine, other = (line.values[:, line.env_steps == step][:, 0] for line in (ours, theirs))
            found = statistics.improvement([(mine, other)])
            rows.append(
                f"| {env_of(path)} | {step / 1e6:.2g}M | {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] |"
            )
    return ["\n".join(rows)] if len(rows) > 2 else []


def differences(folder: Path) -> list[str]:
    """Where the algorithms of one environment learnt with other numbers than each other; random play aside."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        facts = {name: fact for name, fact in json.loads(path.read_text()).items() if name != "random"}
        keys = {(section, key) for fact in facts.values() for section in SECTIONS for key in fact.get(section, {})}
        for section, key in sorted(keys):
            names_of: dict[Any, list[str]] = {}
            for name, fact in facts.items():
                if key in fact.get(section, {}):  # earlier versions had fewer
                    names_of.setdefault(fact[section][key], []).append(name)
            if len(names_of) > 1:
                values = "; ".join(f"{value} for {', '.join(names)}" for value, names in names_of.items())
                lines.append(f"- {path.stem}, `{section}.{key}`: {values}")
    return ["\n".join(lines)] if lines else []


if __name__ == "__main__":
    main()
