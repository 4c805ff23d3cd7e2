"""The page: tables in HTML, the curves as JSON, style and script, all in one file. Text is escaped where it enters."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

import meigm_jax
from meigm_jax.report import MARK, chart, content
from meigm_jax.report.content import Environment, Report, Run
from meigm_jax.report.markup import (
    SCROLLING,
    Html,
    count,
    duration,
    estimated,
    forest,
    items,
    named,
    note,
    table,
    text,
)
from meigm_jax.report.statistics import Estimate
from meigm_jax.runs.curves import Line
from meigm_jax.runs.logger import to_json

HERE = Path(__file__).parent
SHORT, TOLERANCE = "†", 0.02  # marks an evaluation after fewer env steps than another's
FACTS = "meigm_jax jax jaxmarl device".split()  # of a run's versions


def write(report: Report, title: str, notes: Sequence[str]) -> str:
    """The whole page; `notes` are what was left out."""
    left_out = list(notes)
    sections = {
        "results": ("Final evaluations", _results(report)),
        "improvement": ("Probability of improvement", _improvement(report.environments)),
        "episodes": ("Episodes", _episodes(report.environments, left_out.append)),
        "differences": ("Configuration differences", _differences(report.environments)),
        "runs": ("Runs", _runs(report.runs.values())),
    }
    sections["notes"] = "Left out", items(left_out)
    there = {key: (name, body) for key, (name, body) in sections.items() if body}
    script = (HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = [("curves", "Learning curves"), *((key, name) for key, (name, _) in there.items())]
    return Template((HERE / "page.html").read_text()).substitute(
        mark=MARK,
        script_hash=f"sha256-{digest}",
        title=text(title),
        facts=text(_facts(report)),
        navigation="\n".join(f'<a href="#{key}">{name}</a>' for key, name in links),
        style=(HERE / "page.css").read_text(),
        sections="\n".join(_section(key, name, body) for key, (name, body) in there.items()),
        data=to_json(chart.payload(report.environments)).replace("<", "\\u003c"),
        script=script,
    )


def _section(key: str, name: str, body: str) -> str:
    return f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{name}</h2>\n{body}\n</section>'


def _facts(report: Report) -> str:
    runs = report.runs.values()
    devices = sorted({str(run.versions["device"]) for run in runs if "device" in run.versions})
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    counts = [(len(report.environments), "environment"), (len({run.algo for run in runs}), "algorithm")]
    counts += [(len(runs), "run")]
    facts = [f"{count} {what}{'s' if count != 1 else ''}" for count, what in counts]
    return " · ".join(
        [*facts, *([f"on {', '.join(devices)}"] if devices else []), f"meigm_jax {meigm_jax.__version__}", made]
    )


def _limits(metric: str, estimates: Sequence[Estimate]) -> tuple[float, float]:
    if metric == "win_rate":
        return 0.0, 1.0
    ends = [end for each in estimates for end in each if not math.isnan(end)]
    return min(ends), max(ends)


def _results(report: Report) -> str:
    head = ["algorithm", "", "mean [95 %]", "IQM [95 %]", "seeds", "env steps", "wall time", "env steps/s"]
    wins = any(env.measure.metric == "win_rate" for env in report.environments)
    if wins:
        head.insert(4, "return [95 %]")
    groups = [(_heading(env), _result_rows(env, report, wins)) for env in report.environments]
    about = (
        "The last evaluation that all seeds have. Mean over seeds with the 95 % Student-t interval; IQM: interquartile "
        "mean (of fewer than four seeds the mean) with the 95 % percentile bootstrap interval over seeds, which is too "
        "narrow for a handful of seeds. Wall time and speed are of the runs, all of their seeds together."
    )
    results = table(head, groups, range(2, len(head)))
    short = (
        f" {SHORT} after fewer env steps than another algorithm in the same environment." if SHORT in results else ""
    )
    return _together(report.environments) + results + note(about + short)


def _heading(env: Environment) -> Html:
    return Html(f"{text(env.name)} <span>{text(env.measure.in_words())}</span>")


def _result_rows(env: Environment, report: Report, wins: bool) -> list[list[Any]]:
    limits = _limits(env.measure.metric, [final.mean for final in env.finals.values()])
    longest = max((final.env_steps for final in env.finals.values()), default=0)
    rows = []
    for line, look in zip(env.lines, env.looks, strict=True):
        if found := env.finals.get(line.name):
            name = named(line.name, look)
            if found.measure != env.measure:
                name = Html(f'{name} <span class="interval">{text(found.measure.in_words())}</span>')
            row: list[Any] = [name, forest(found.mean, limits, look), estimated(found.mean), estimated(found.iqm)]
            if wins:
                returns = content.final(line, found.measure._replace(metric="return"))
                row.append(estimated(returns.mean) if returns and found.measure.metric == "win_rate" else "–")
            mark = SHORT if found.env_steps < longest * (1 - TOLERANCE) else ""
            runs = [report.runs[path] for path in content.runs_of(line)]
            rows.append([*row, len(found.values), count(found.env_steps) + mark, *_cost(runs)])
    return rows


def _cost(runs: Sequence[Run]) -> list[str]:
    """Wall time of the runs, and their mean speed as far as they are complete."""
    speeds = [run.summary["env_steps_per_second"] for run in runs if run.summary]
    return [duration(sum(run.wall_time for run in runs)), count(sum(speeds) / len(speeds) if speeds else math.nan)]


def _together(environments: Sequence[Environment]) -> str:
    """A table over all environments with a win rate, where there are several."""
    comparable, estimates = content.together(environments)
    if len(comparable) < 2 or not estimates:
        return ""
    looks = {line.name: look for env in comparable for line, look in zip(env.lines, env.looks, strict=True)}
    rows = [
        [named(name, looks[name]), forest(found, (0, 1), looks[name]), estimated(found)]
        for name, found in estimates.items()
    ]
    names = ", ".join(env.name for env in comparable)
    heading = Html(f"Together <span>win rate in {text(names)}</span>")
    about = "IQM of the seeds of all these environments, with its 95 % bootstrap interval, stratified by environment."
    return table(["algorithm", "", "IQM [95 %]"], [(heading, rows)], [2]) + note(about)


def _improvement(environments: Sequence[Environment]) -> str:
    """A matrix over all environments, and one for each of them."""
    several = len(environments) > 1
    overall = _matrix(environments)
    if not overall:
        return ""
    mean = f": mean over the environments that both were run in, all {len(environments)} where no number is given"
    about = (
        "How likely a seed of the row's algorithm does better at the end than a seed of the column's, ties counted by "
        f"half{mean if several else ''}; below it the 95 % percentile bootstrap interval"
        f"{', stratified by environment' if several else ''}. Few seeds make it too narrow."
    )
    parts = [note(about), overall]
    for env in environments if several else ():
        if matrix := _matrix([env]):
            parts.append(f"<details><summary>{text(env.name)}</summary>{matrix}</details>")
    return "\n".join(parts)


def _matrix(environments: Sequence[Environment]) -> str:
    names, found = content.improvements(environments)
    if not found:
        return ""
    several = {shared for _, shared in found.values()} != {len(environments)}  # cells then tell how many
    lines = []
    for x in names:
        cells = [_better(*found[x, y], several) if (x, y) in found else "<td></td>" for y in names]
        lines.append(f'<tr><th scope="row" class="named">{text(x)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{text(y)}</th>' for y in names)
    return (
        f'{SCROLLING}<table class="matrix"><thead><tr><th scope="col">better than …</th>'
        f"{head}</tr></thead>\n<tbody>{'\n'.join(lines)}</tbody></table></div>"
    )


def _better(estimate: Estimate, environments: int, several: bool) -> str:
    """A cell, the stronger coloured the further it is from a half."""
    side, tint = ("better" if estimate.value > 0.5 else "worse"), abs(estimate.value - 0.5) * 0.7
    interval = (
        "" if math.isnan(estimate.low) else f'<span class="interval">{estimate.low:.2f}–{estimate.high:.2f}</span>'
    )
    where = f'<span class="interval">{environments} env.</span>' if several else ""
    return f'<td class="{side}" style="--tint:{tint:.2f}">{estimate.value:.2f}{interval}{where}</td>'


def _differences(environments: Sequence[Environment]) -> str:
    alike: dict[str, list[str]] = {}  # table -> environments
    for env in environments:
        if found := content.differences(env):
            head = ["key", *map(named, (line.name for line in env.lines), env.looks)]
            alike.setdefault(_values(head, found), []).append(env.name)
    parts = [f"<h3>{text(', '.join(names))}</h3>{values}" for values, names in alike.items()]
    if found := content.differences_between(environments):
        parts.append(f"<h3>Between environments</h3>{_values(['key', *(env.name for env in environments)], found)}")
    return note("Only the keys whose values differ.") + "\n".join(parts) if parts else ""


def _values(head: Sequence[Any], found: dict[str, list[str | None]]) -> Html:
    def shown(value: str | None) -> Html:
        missing = '<span class="missing">–</span>'
        return Html(missing if value is None else f'<span class="value">{text(value)}</span>')

    rows = [[Html(f'<span class="key">{text(key)}</span>'), *map(shown, values)] for key, values in found.items()]
    return table(head, [(None, rows)])


def _episodes(environments: Sequence[Environment], warn: Callable[[str], None]) -> str:
    parts = []
    for env in environments:
        if figures := [_figure(*found) for found in content.gifs(env, warn)]:
            body = f'<div class="episodes">{"".join(figures)}</div>'
            parts.append(f'<details class="moving" open><summary>{text(env.name)}</summary>{body}</details>')
    return "\n".join(parts)


def _figure(line: Line, path: Path, data: bytes) -> str:
    source = "data:image/gif;base64," + base64.b64encode(data).decode()
    alternative = text(f"An episode of {line.name}, animated")
    caption = f"<figcaption>{text(line.name)} · {text(path)}</figcaption>"
    return f'<figure><img src="{source}" alt="{alternative}">{caption}</figure>'


def _runs(runs: Iterable[Run]) -> str:
    head = ["run", "env", "algo", "seeds", "env steps", "wall time", "compiling", "memory", *FACTS, "state"]
    rows = []
    for run in sorted(runs):
        _, compiling, memory = (run.summary.get(cost, math.nan) for cost in content.COSTS)
        row = [Html(f"<code>{text(run.path)}</code>"), run.env, run.algo, _seeds(run.seeds), count(run.env_steps)]
        row += [duration(run.wall_time), duration(compiling), "–" if math.isnan(memory) else f"{memory / 1e9:.2f} GB"]
        rows.append([*row, *(run.versions.get(fact, "–") for fact in FACTS), _state(run)])
    return table(head, [(None, rows)], [4, 5, 6, 7], "small")


def _seeds(seeds: Sequence[int]) -> str:
    first, last = min(seeds), max(seeds)
    neighbours = last - first + 1 == len(seeds) > 2
    return f"{first} to {last}" if neighbours else ", ".join(map(str, seeds))


def _state(run: Run) -> str:
    if not run.summary:
        return "not complete"
    bad = map(str, run.summary["non_finite"])
    return f"not finite: seed {', '.join(bad)}" if run.summary["non_finite"] else "complete"
