"""The curves of the page as plain containers, small enough for a page: what page.js draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from meigm_jax.report.content import Environment
from meigm_jax.runs import curves
from meigm_jax.runs.curves import Line, Measure

NUMBERS = 80_000  # at most, of all curves: a page below 1 MB
POINTS = (50, 500)  # per curve, at least and at most
DASHES = {"-": "", "--": "7 4", ":": "1.5 4", "-.": "9 4 1.5 4"}  # of matplotlib -> of SVG
LONG_DASH = "12 3 2 3 2 3"
DARK = 0.021  # relative luminance of the page's dark background
CONTRAST = 4.5  # of a line on it (WCAG 2.2, 1.4.3)


def payload(environments: Sequence[Environment]) -> dict[str, Any]:
    """Every curve of every environment: mean, interval and seeds, at evenly chosen points where there are too many."""
    series = sum((2 + len(line.members)) * len(env.measures) for env in environments for line in env.lines)
    points = int(np.clip(NUMBERS / max(series, 1), *POINTS))
    found = dict.fromkeys(measure for env in environments for measure in env.measures)
    return {
        "measures": [{"id": name(m), "group": group(m), "label": m.metric.replace("_", " ")} for m in found],
        "environments": [_environment(env, points) for env in environments],
    }


def name(measure: Measure) -> str:
    """Its id in the page."""
    return f"{group(measure)}: {measure.metric}"


def group(measure: Measure) -> str:
    """The rows that it is read from, in words."""
    return f"evaluation, {measure.policy} policy" if measure.kind == "eval" else "training"


def colours(look: dict[str, Any]) -> tuple[str, str]:
    """A line's colour, on white and on the page's dark background."""
    from matplotlib.colors import to_hex, to_rgb

    light = np.array(to_rgb(look["color"]))
    mixed = (light + (1 - light) * white for white in np.linspace(0, 1, 21))
    dark = next(each for each in mixed if (_luminance(each) + 0.05) / (DARK + 0.05) >= CONTRAST)
    return to_hex(light.tolist()), to_hex(dark.tolist())


def dashes(look: dict[str, Any]) -> str:
    """Its `stroke-dasharray`."""
    style = look["linestyle"]
    return DASHES[style] if isinstance(style, str) else LONG_DASH


def _luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _environment(env: Environment, points: int) -> dict[str, Any]:
    lines = [
        {"name": line.name, "seeds": [member.seed for member in line.members], "colours": colours(look)}
        | {"dashes": dashes(look)}
        for line, look in zip(env.lines, env.looks, strict=True)
    ]
    found = {name(measure): [_curve(line, measure, points) for line in env.lines] for measure in env.measures}
    groups = {group(measure): measure for measure in env.measures}
    return {
        "name": env.name,
        "measure": name(env.measure),
        "lines": lines,
        "axes": {key: [_axes(line, measure, points) for line in env.lines] for key, measure in groups.items()},
        "curves": found,
    }


def _chosen(size: int, points: int) -> np.ndarray:
    """Indices of evenly chosen points, first and last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, points)).round().astype(int)) if size else np.arange(0)


def _axes(line: Line, measure: Measure, points: int) -> dict[str, list[Any]]:
    """Env steps and, as its seeds' mean, seconds of each point; every metric of the same rows has them."""
    steps = curves.curve(line.members, measure).env_steps
    seconds = curves.curve(line.members, measure._replace(metric="wall_time")).values.mean(axis=0)
    chosen = _chosen(steps.size, points)
    return {"steps": steps[chosen].tolist(), "seconds": _plain(seconds[chosen])}


def _curve(line: Line, measure: Measure, points: int) -> dict[str, Any] | None:
    """None where the line has nothing to show."""
    values = curves.curve(line.members, measure).values
    values = values[:, _chosen(values.shape[1], points)]
    if np.isnan(values).all():
        return None
    found = curves.interval(values)
    return {
        "mean": _plain(found.mean),
        "low": _plain(found.low),
        "high": _plain(found.high),
        "seeds": [_plain(row) for row in values],
    }


def _plain(values: np.ndarray) -> list[float | None]:
    """Four digits; None for NaN."""
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values.tolist()]
