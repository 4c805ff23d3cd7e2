"""A table or figure of the paper: which units it needs, what the paper reports, and the page that shows both.

A script gives a `Study` to `main`, which is its command:

    python experiments/table_3.py                                    # write the page anew from the curves at hand
    python experiments/table_3.py --budget cpu                       # train what is missing first
    python experiments/table_3.py smax_zerg_5v5/qmix --budget cpu    # one unit; ENV alone: all of its units
    python experiments/table_3.py --budget full --list               # its units and what they would take

Units are shared: what one table has trained, another need not. The page goes to experiments/results/<name>, that of
the budget `full` to results/<name>/full.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pages
import units
from units import Unit

from meigm_jax import plot, train
from meigm_jax.report import statistics
from meigm_jax.runs import cost, curves, dry_run
from meigm_jax.runs.machine import human_bytes


class Final(NamedTuple):
    """A line and its end."""

    env: str
    line: str
    curve: curves.Curve

    @property
    def env_steps(self) -> int:
        return int(self.curve.env_steps[-1])

    @property
    def scores(self) -> np.ndarray:
        """f64[S]: its last values."""
        return self.curve.values[:, -1]

    def at(self, env_steps: int) -> np.ndarray:
        """f64[S]: its values at the last evaluation up to so many env steps, its own first if there is none."""
        return self.curve.values[:, max(np.searchsorted(self.curve.env_steps, env_steps, side="right") - 1, 0)]


class Study(NamedTuple):
    """A table or figure."""

    name: str  # of its folder
    title: str
    about: str  # what the paper shows and what to look for
    units: tuple[Unit, ...]
    paper: Mapping[tuple[str, str], str] = MappingProxyType({})  # (environment, line) -> what the paper reports
    shows: tuple[str, ...] = ("greedy",)  # policies that are evaluated, or metrics of training; the first is tabulated
    against: tuple[tuple[str, str], ...] = ()  # lines whose probability of improvement is told: one over the other
    apart: bool = False  # its curves are its own, not shared with other tables and figures
    picture: Callable[[Path, str, list[Final]], None] | None = None  # of an environment's ends, in place of curves


def main(study: Study, argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("only", nargs="*", metavar="ENV[/UNIT]", help="default: all of its units")
    parser.add_argument("--budget", choices=tuple(units.BUDGETS), help="train what is missing; none: only the page")
    parser.add_argument("--list", action="store_true", help="tell the units and their cost, and train nothing")
    options = parser.parse_args(argv)
    chosen = [u for u in study.units if not options.only or {u.env, f"{u.env}/{u.name}"} & set(options.only)]
    if not chosen:
        parser.error(
            f"no such unit: {' '.join(options.only)}; there are {' '.join(f'{u.env}/{u.name}' for u in study.units)}"
        )
    budget = options.budget or "cpu"
    if options.list or budget == "full":
        tell(study, chosen, budget)
    if options.list:
        return
    for unit in chosen if options.budget else ():
        units.run(unit, budget, units.budget(budget, unit), curves_of(study, budget), study.shows)
        write(study, budget)
    write(study, budget)


def tell(study: Study, chosen: list[Unit], budget: str) -> None:
    """Print what is missing, and its time and memory: the trainer's operations, counted, at the speed measured here."""
    asked = {unit: units.budget(budget, unit) for unit in chosen}
    missing = [unit for unit in chosen if not units.finished(unit, curves_of(study, budget), asked[unit], study.shows)]
    print(f"{len(chosen) - len(missing)} of {len(chosen)} units are there")
    rates, known, total = cost.measure(), {}, 0.0
    for unit in missing:
        kind = (unit.env.rpartition("_")[2], unit.name)  # teams of one size take the same, whatever their race
        if kind not in known:
            config = train.plan(train.parse(units.arguments_of(unit, asked[unit])))[0].config
            known[kind] = dry_run.estimate(config, rates)
        total += known[kind].seconds
        size = f"{asked[unit].steps:.3g} env steps x {asked[unit].seeds} seeds"
        took = f"{dry_run.human_time(known[kind].seconds)}, replay {human_bytes(known[kind].replay_bytes)}"
        print(f"{unit.env}/{unit.name}: {size}, about {took}", flush=True)
    if missing:
        largest = human_bytes(max(found.replay_bytes for found in known.values()))
        print(
            f"together, one after the other: about {dry_run.human_time(total)}, at most {largest} of replay at a time"
        )


def folder_of(study: Study, budget: str) -> Path:
    if budget == "smoke":
        return units.RUNS / "smoke_results" / study.name
    return pages.RESULTS / study.name / ("full" if budget == "full" else "")


def curves_of(study: Study, budget: str) -> Path:
    """The folder of its units' curves."""
    return folder_of(study, budget) / "curves" if study.apart else units.results_of(budget)


def write(study: Study, budget: str) -> None:
    """The page, its table as CSV, and its figures."""
    folder, source = folder_of(study, budget), curves_of(study, budget)
    finals = [final for env in envs_of(study) for final in finals_of(study, env, source)]
    if not finals:
        print("none of its units has been run")
        return
    folder.mkdir(parents=True, exist_ok=True)
    keep(folder / "final.csv", study, finals)
    text = [f"# {study.title}", study.about, *filter(None, [pages.notes(folder)]), made_by(study, budget)]
    pictures = []
    for env, what in itertools.product(envs_of(study), study.shows):
        if picture := draw(study, env, what, source, folder):
            pictures.append(f"![{env}, {what}]({picture.name})")
    numbers = ["\n".join(table(study, finals, source)), *compared(study, finals)]
    text += pictures + numbers if study.picture else numbers + pictures
    pages.write(folder, "\n\n".join(text) + "\n")


def envs_of(study: Study) -> list[str]:
    return list(dict.fromkeys(unit.env for unit in study.units))


def chosen_lines(
    study: Study, env: str, what: str, source: Path
) -> tuple[curves.Measure | None, dict[str, curves.Curve]]:
    """The lines of the study's units in one environment, in their order."""
    path = units.path_of(source, env, what)
    if not path.exists():
        return None, {}
    measure, found = units.read_csv(path)
    mine = [units.of_unit(found, unit.name) for unit in study.units if unit.env == env]
    return measure, {name: curve for lines in mine for name, curve in lines.items()}


def finals_of(study: Study, env: str, source: Path) -> list[Final]:
    _, found = chosen_lines(study, env, study.shows[0], source)
    return [Final(env, name, curve) for name, curve in found.items()]


def made_by(study: Study, budget: str) -> str:
    curves_folder = os.path.relpath(curves_of(study, budget), folder_of(study, budget))
    return (
        f"Made by `python experiments/{study.name}.py --budget {budget}`. Configuration, versions, device and cost\n"
        f"of every unit are beside its [curves]({curves_folder}). Means over seeds with the 95 % Student-t interval;\n"
        "what is not in the table has not been run, and what has fewer env steps than the budget not continued. Lines\n"
        "are compared at the env steps that both of them have."
    )


def table(study: Study, finals: list[Final], source: Path) -> list[str]:
    rows = ["| environment | algorithm | seeds x episodes | env steps | here | paper |", "|---|---|---|---|---|---|"]
    for final in finals:
        fact = json.loads((source / f"{final.env}.json").read_text())[final.line.split(" ")[0]]
        reported = study.paper.get((final.env, final.line), "-")
        size = f"{len(final.scores)} x {fact['episodes']}"
        cells = (
            final.env,
            final.line,
            size,
            f"{final.env_steps / 1e6:.2g}M",
            mean_with_interval(final.scores),
            reported,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def mean_with_interval(scores: np.ndarray) -> str:
    found = curves.interval(scores[:, None])
    digits = 3 if abs(found.mean[0]) < 2 else 1
    return f"{found.mean[0]:.{digits}f} [{found.low[0]:.{digits}f}, {found.high[0]:.{digits}f}]"


def keep(path: Path, study: Study, finals: list[Final]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["env", "line", "env_steps", "member", study.shows[0], "paper"])
        for final in finals:
            reported = study.paper.get((final.env, final.line), "")
            for member, score in enumerate(final.scores):
                writer.writerow([final.env, final.line, final.env_steps, member, f"{score:.5g}", reported])


def compared(study: Study, finals: list[Final]) -> list[str]:
    """Over the environments that have both lines, at the env steps of both: P(improvement) and interquartile means."""
    found = {(final.env, final.line): final for final in finals}
    sentences = []
    for one, other in study.against:
        pairs = {
            env: at_equal_steps(found[env, one], found[env, other])
            for env in envs_of(study)
            if {(env, one), (env, other)} <= found.keys()
        }
        if not pairs:
            continue
        better = format_estimate(statistics.improvement(list(pairs.values())))
        sentence = f"P({one} > {other}) over {', '.join(pairs)}: **{better}**"
        if all(np.max(np.abs(both)) <= 1 for pair in pairs.values() for both in pair):  # comparable: win rates
            means = [format_estimate(statistics.interquartile_mean(side)) for side in zip(*pairs.values(), strict=True)]
            sentence += f"; interquartile means {means[0]} and {means[1]}"
        sentences.append(f"{sentence} (95 % stratified bootstrap).")
    return sentences


def at_equal_steps(one: Final, other: Final) -> tuple[np.ndarray, np.ndarray]:
    """The scores of both at the end of the shorter."""
    shared = min(one.env_steps, other.env_steps)
    return one.at(shared), other.at(shared)


def format_estimate(estimate: statistics.Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def draw(study: Study, env: str, what: str, source: Path, folder: Path) -> Path | None:
    """A figure of an environment's lines, where there are any."""
    measure, found = chosen_lines(study, env, what, source)
    if measure is None or not found:
        return None
    lines = [units.line(name, curve) for name, curve in found.items()]
    path = folder / (f"{env}.png" if what == "greedy" else f"{env}.{what}.png")
    if study.picture is not None:
        study.picture(path, env, finals_of(study, env, source))
        return path
    plot.draw(path, plot.figure(lines, env, measure))
    return path
