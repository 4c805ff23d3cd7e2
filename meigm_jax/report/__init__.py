"""The report command: `python -m meigm_jax.report RUN_OR_FOLDER... --out FILE`.

One HTML page on finished and running runs, with everything in it: it opens from the disk, without a network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from meigm_jax.arguments import Parser, exit_code
from meigm_jax.registry import ConfigError

MARK = '<meta name="generator" content="meigm_jax report">'  # in the first lines of every page
DESCRIPTION = """\
One self-contained HTML page on every run at or below the given folders: interactive learning curves, final evaluations
with 95 % intervals, probability of improvement, what differs between the configurations, and the newest *.gif in the
run directories of each algorithm, as made by

  python -m meigm_jax.evaluate RUN --gif RUN/episode.gif

Runs that differ in nothing but their seed are pooled. The page loads nothing: send it, or open it from the disk.

  python -m meigm_jax.report runs/paper --out runs/paper/report.html

Exit codes: 0 success; 2 wrong use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page that the arguments ask for and return the exit code: 0, or 2 for wrong arguments."""
    return exit_code(lambda: _answer(parse(sys.argv[1:] if argv is None else argv)))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked as far as that needs no run. Raises ConfigError."""
    parser = Parser("python -m meigm_jax.report", DESCRIPTION)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_OR_FOLDER", help="run directories, or folders")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default: report.html)"
    )
    parser.add_argument("--title", help="its heading (default: the folders)")
    options = parser.read(arguments)
    _check_out(options.out)
    return options


def _check_out(path: Path) -> None:
    """Only a page of ours is written over."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out: expected a file name that ends in .html, got '{path}'")
    if not path.parent.is_dir():
        raise ConfigError(f"--out: folder '{path.parent}' does not exist")
    if path.is_dir():
        raise ConfigError(f"--out: '{path}' is a folder")
    if path.exists():
        try:
            ours = path.is_file() and MARK.encode() in path.read_bytes()[:1000]
        except OSError as error:
            raise ConfigError(f"--out: cannot read {path}: {error.strerror}") from error
        if not ours:
            raise ConfigError(f"--out: {path} exists and is no report; choose another name")


def _answer(options: argparse.Namespace) -> int:
    from meigm_jax.report import content, page
    from meigm_jax.runs.files import write_text

    notes: list[str] = []

    def warn(text: str) -> None:
        notes.append(" ".join(text.split()))
        print("warning:", notes[-1], file=sys.stderr)

    report = content.gather(options.folders, warn)
    text = page.write(report, options.title or ", ".join(map(str, options.folders)), notes)
    try:
        write_text(options.out.resolve(), text)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {options.out}: {error.strerror}") from error
    envs = ", ".join(env.name for env in report.environments)
    print(f"wrote {options.out}: {envs}, {len(report.runs)} runs, {len(text.encode()) / 1e3:.0f} kB")
    return 0
