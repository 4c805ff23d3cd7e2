"""Pieces of HTML: text, which is escaped where it enters, tables, numbers and small pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from meigm_jax.report import chart
from meigm_jax.report.statistics import Estimate

FOREST = 130, 18  # of a picture of an interval, pixels
SCROLLING = '<div class="scroll" tabindex="0" role="region" aria-label="table that scrolls">'


class Html(str):
    """Text that is HTML already; any other text is escaped when it enters a page."""


def text(value: Any) -> Html:
    """Escaped, unless it is HTML already."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def _cells(tag: str, row: Iterable[Any], numbers: Iterable[int] = ()) -> str:
    numbers, scope = set(numbers), ' scope="col"' if tag == "th" else ""
    cells = []
    for k, cell in enumerate(row):
        if tag == "td" and k == 0:
            cells.append(f'<th scope="row" class="named">{text(cell)}</th>')
        else:
            cells.append(f"<{tag}{scope}{' class="number"' if k in numbers else ''}>{text(cell)}</{tag}>")
    return "".join(cells)


def table(
    head: Sequence[Any],
    groups: Sequence[tuple[Any, Sequence[Sequence[Any]]]],
    numbers: Iterable[int] = (),
    style: str = "",
) -> Html:
    """A table whose rows may come in groups with a heading; the first column names the row."""
    bodies = []
    for heading, rows in groups:
        lines = [f"<tr>{_cells('td', row, numbers)}</tr>" for row in rows]
        if heading:
            first = f'<th class="group" scope="rowgroup" colspan="{len(head)}">{text(heading)}</th>'
            lines.insert(0, f"<tr>{first}</tr>")
        bodies.append("<tbody>\n" + "\n".join(lines) + "\n</tbody>\n")
    top = f"<thead><tr>{_cells('th', head, numbers)}</tr></thead>\n"
    return Html(f'{SCROLLING}<table class="{style}">\n{top}{"".join(bodies)}</table></div>')


def items(found: Sequence[str]) -> str:
    """A list; nothing where there are none."""
    lines = "\n".join(f"<li>{text(item)}</li>" for item in found)
    return f"<ul>\n{lines}\n</ul>" if found else ""


def note(words: str) -> str:
    """A remark; `words` are HTML."""
    return f'<p class="note">{words}</p>'


def _colours(look: dict[str, Any]) -> str:
    light, dark = chart.colours(look)
    return f'class="line" style="--light:{light};--dark:{dark}"'


def named(name: str, look: dict[str, Any]) -> Html:
    """A line's name behind a sample of it."""
    return Html(
        f'<svg viewBox="0 0 34 12" aria-hidden="true" {_colours(look).replace("line", "sample line", 1)}>'
        f'<line class="mean" x1="2" y1="6" x2="32" y2="6" stroke-dasharray="{chart.dashes(look)}"/></svg>{text(name)}'
    )


def number(value: float) -> str:
    """Three digits or four."""
    return "–" if math.isnan(value) else f"{value:#.3g}".removesuffix(".") if abs(value) < 1000 else f"{value:.4g}"


def estimated(estimate: Estimate) -> Html:
    """A value and its interval."""
    interval = "" if math.isnan(estimate.low) else f"[{number(estimate.low)}, {number(estimate.high)}]"
    return Html(f'{number(estimate.value)} <span class="interval">{interval}</span>')


def forest(estimate: Estimate, limits: tuple[float, float], look: dict[str, Any]) -> Html:
    """A picture of an estimate, between limits that all pictures of a group share."""
    (width, height), (low, high) = FOREST, limits

    def place(value: float) -> float:
        return 6 + (width - 12) * (min(max((value - low) / (high - low), 0), 1) if high > low else 0.5)

    shape = f'<circle class="dot" cx="{place(estimate.value):.1f}" cy="{height / 2}" r="4.5"/>'
    if not math.isnan(estimate.low):
        ends = f'x1="{place(estimate.low):.1f}" x2="{place(estimate.high):.1f}"'
        shape = f'<line class="whisker" {ends} y1="{height / 2}" y2="{height / 2}"/>' + shape
    rule = f'<line class="grid" x1="0" x2="{width}" y1="{height / 2}" y2="{height / 2}"/>'
    picture = f"{rule}<g {_colours(look)}>{shape}</g>"
    return Html(f'<svg class="forest" viewBox="0 0 {width} {height}" aria-hidden="true">{picture}</svg>')


def count(steps: float) -> str:
    """With an SI unit."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if steps >= unit:
            return f"{steps / unit:.3g} {name}"
    return "–" if math.isnan(steps) else f"{steps:.0f}"


def duration(seconds: float) -> str:
    """In the units that a reader has time for."""
    if math.isnan(seconds):
        return "–"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
