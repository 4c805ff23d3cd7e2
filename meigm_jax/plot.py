"""The plot command: `python -m meigm_jax.plot RUN_OR_FOLDER... --metric M --out FILE`.

Learning curves of finished and running runs, one figure per environment, one line per algorithm and configuration.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meigm_jax.arguments import Parser, exit_code
from meigm_jax.looks import looks, ranks
from meigm_jax.registry import ConfigError
from meigm_jax.runs import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
LEGEND_WIDTH = 66  # characters beside each other, at the size of the legend
STYLE: Any = {
    "font.size": 12,
    "axes.titlesize": 12,
    "legend.fontsize": 11,
    "legend.title_fontsize": 11,
    "pdf.fonttype": 42,
}
MEANS = {"mean": "mean over seeds", "iqm": "interquartile mean over seeds"}
INTERVALS = {"mean": "95 % Student-t interval", "iqm": "95 % percentile bootstrap interval"}
DESCRIPTION = """\
Learning curves of every run at or below the given folders: one figure per environment (FILE, or FILE_<env> where there
are several), one line per algorithm, and per value of what differs between its runs. Runs that differ in nothing but
their seed are pooled; a line ends where the first of its seeds ends.

  python -m meigm_jax.plot runs/smax_5v5 --out curves.png
  python -m meigm_jax.plot runs --metric alpha --out alpha.pdf
  python -m meigm_jax.plot runs/smax_5v5 --aggregate iqm --interval range --out curves.svg

Exit codes: 0 success; 2 wrong use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the arguments ask for and return the exit code: 0, or 2 for wrong arguments."""
    return exit_code(lambda: _answer(parse(sys.argv[1:] if argv is None else argv)))


def _answer(options: argparse.Namespace) -> int:
    for line in plot(options):
        print(line)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked as far as that needs no run. Raises ConfigError."""
    parser = Parser("python -m meigm_jax.plot", DESCRIPTION)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_OR_FOLDER", help="run directories, or folders")
    parser.add_argument("--metric", help="win_rate, return, alpha, loss_td, ... (default: win_rate, else return)")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE", help=".png, .pdf or .svg")
    parser.add_argument("--kind", choices=("eval", "train"), help="rows to read (default: eval where they have it)")
    parser.add_argument(
        "--policy", choices=("greedy", "sampled", "mode"), help="of evaluations (default: greedy if there)"
    )
    parser.add_argument(
        "--aggregate",
        choices=("mean", "iqm"),
        default="mean",
        help="over seeds; the interquartile mean of fewer than 4 is their mean (default: mean)",
    )
    parser.add_argument(
        "--interval",
        choices=("ci", "range", "none"),
        default="ci",
        help="band: 95 %% interval at each env step (Student-t for the mean, percentile bootstrap for the IQM), "
        "range of seeds, or none (default: ci)",
    )
    parser.add_argument("--smooth", type=int, default=1, metavar="K", help="mean of each seed's last K points")
    options = parser.read(arguments)
    if options.smooth < 1:
        raise ConfigError(f"--smooth: expected an integer of at least 1, got {options.smooth}")
    _check_out(options.out)
    return options


def _check_out(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out: expected a file name that ends in {', '.join(FORMATS)}, got '{path}'")
    if not path.parent.is_dir():
        raise ConfigError(f"--out: folder '{path.parent}' does not exist")
    if path.is_dir():
        raise ConfigError(f"--out: '{path}' is a folder")


def plot(options: argparse.Namespace) -> Iterator[str]:
    """Write the figures; a line on each. Raises ConfigError when nothing can be drawn or a file can't be written."""
    by_env = curves.read(options.folders, _warn)
    asked = (options.metric, options.kind, options.policy)
    curves.choose(itertools.chain(*by_env.values()), *asked)  # an error only where no environment has it
    drawn: dict[str, tuple[curves.Measure, list[curves.Line]]] = {}
    for env, members in sorted(by_env.items()):
        try:
            measure = curves.choose(members, *asked)
        except ConfigError as error:
            _warn(f"{env} is left out: {error}")
            continue
        if lines := _lines(members, measure, options.smooth):
            drawn[env] = measure, lines
    if not drawn:
        raise ConfigError("nothing to draw: no line has a point")
    for env, (measure, lines) in drawn.items():
        out = options.out if len(drawn) == 1 else options.out.with_stem(f"{options.out.stem}_{env}")
        draw(out, figure(lines, env, measure, options.aggregate, options.interval, options.smooth))
        yield f"wrote {out}: {env}, {measure.in_words()}, {', '.join(map(_label, lines))}"


def _lines(members: Sequence[curves.Member], measure: curves.Measure, smooth: int) -> list[curves.Line]:
    """The lines of one figure in the order of their algorithms."""
    lines = []
    for line in curves.pool(members, measure, _warn):
        curve = curves.smooth(line.curve, smooth)
        if curves.shared(curve).any():
            lines.append(line._replace(curve=curve))
        else:
            _warn(f"{line.name} is not drawn: it has no {smooth} points in a row")
    rank = ranks(lines)
    return sorted(lines, key=lambda line: rank[line.algo])


def _warn(text: str) -> None:
    print("warning:", " ".join(text.split()), file=sys.stderr)


def figure(
    lines: Sequence[curves.Line],
    title: str,
    measure: curves.Measure,
    aggregate: str = "mean",
    band: str = "ci",
    smooth: int = 1,
) -> Figure:
    """Lines over env steps with the intervals that `curves.interval` gives, and a legend that says what they are."""
    import matplotlib
    from matplotlib.figure import Figure

    last = max(line.curve.env_steps[-1] for line in lines)
    unit, name = (1e6, "millions") if last >= 1e6 else (1e3, "thousands")
    labels = [_wrap(_label(line)) for line in lines]
    columns = max(1, min(len(lines), LEGEND_WIDTH // (max(map(len, labels)) + 8)))
    legend_rows = -(-sum(label.count("\n") + 1 for label in labels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.4 + 0.22 * legend_rows), layout="constrained")
        axes = figure.subplots()
        for k, (line, look) in enumerate(zip(lines, looks(lines), strict=True)):
            found = curves.interval(line.curve.values, aggregate, band)
            _draw_line(axes, line.curve.env_steps / unit, found, look | {"label": labels[k]}, k / len(lines))
        axes.set(xlabel=f"env steps per seed ({name})", ylabel=measure.in_words(), title=title)
        axes.set_xlim(left=0)
        if measure.metric == "win_rate":
            axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        caption = _caption(lines, aggregate, band, smooth)
        legend = figure.legend(
            loc="outside lower center", ncols=columns, title=caption, frameon=False, handlelength=3.5
        )
        legend.get_title().set_multialignment("center")
    return figure


def draw(path: Path, figure: Figure) -> None:
    """Write the figure in the format that the suffix of `path` names. Raises ConfigError when it can't be written."""
    import matplotlib

    try:
        with matplotlib.rc_context(STYLE):
            figure.savefig(path, dpi=200)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {path}: {error.strerror}") from error


def _draw_line(axes: Axes, x: np.ndarray, found: curves.Interval, look: dict[str, Any], offset: float) -> None:
    """Gaps stay gaps; eight markers or so, the first after `offset` of their distance, and one on lonely points."""
    there = ~np.isnan(found.mean)
    padded = np.pad(there, 1)
    lonely = there & ~padded[:-2] & ~padded[2:]
    places = np.flatnonzero(there)
    distance = -(-len(places) // 8)
    marked = sorted({*places[int(offset * distance) :: distance], *np.flatnonzero(lonely)})
    axes.plot(x, found.mean, linewidth=2, markersize=6, markevery=[int(k) for k in marked], **look)
    if not np.isnan(found.low).all():
        axes.fill_between(x, found.low, found.high, color=look["color"], alpha=0.18, linewidth=0)


def _label(line: curves.Line) -> str:
    seeds = len(line.curve.values)
    return f"{line.name} ({seeds} seed{'s' if seeds > 1 else ''})"


def _caption(lines: Sequence[curves.Line], aggregate: str, band: str, smooth: int) -> str | None:
    facts = []
    if any(len(line.curve.values) > 1 for line in lines):
        facts.append(MEANS[aggregate])
        if band != "none":
            facts.append(f"band: {INTERVALS[aggregate] if band == 'ci' else 'range of seeds'}")
    if smooth > 1:
        facts.append(f"each seed's mean of the last {smooth} points")
    return _wrap(", ".join(facts)) or None


def _wrap(text: str) -> str:
    return textwrap.fill(text, LEGEND_WIDTH - 8, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
