"""Where the numbers of a run go: metrics.jsonl and the console."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from tqdm import tqdm

from meigm_jax.config import Config
from meigm_jax.registry import ConfigError
from meigm_jax.runs.rows import Row

PLAIN_LINE_SECONDS = 10.0  # between progress lines where the console is no terminal


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity, however deep, replaced by None: JSON has no tokens for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: no NaN, no infinity."""
    return json.dumps(finite(value), allow_nan=False, indent=indent)


class MetricsFile:
    """Rows as JSON lines, appended whole or not at all; locked against a second process.

    Rows that find the disk full wait in memory for the next write. Raises ConfigError when another process writes.
    """

    def __init__(self, path: Path):
        """Open and lock `path`; rows are appended behind what is there."""
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ConfigError(f"{path.parent}: another process is training in this run directory") from None
        self.offset = os.fstat(self._descriptor).st_size  # bytes of whole lines
        self._waiting = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def cut(self, offset: int) -> None:
        """Drop what is behind `offset` bytes. Raises ConfigError when the file is shorter than that."""
        if self.offset < offset:
            raise ConfigError(
                f"resume: {self._path} has {self.offset} bytes, but {offset} at the checkpoint; put back what it lost"
            )
        os.ftruncate(self._descriptor, offset)
        self.offset = offset

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows. Raises OSError when they can't be written; they are kept for the next write."""
        self._waiting += "".join(to_json(row) + "\n" for row in rows).encode()
        self.flush()

    def flush(self) -> None:
        """Write what is waiting. Raises OSError, and leaves no part of a line, when that is not possible."""
        if not self._waiting:
            return
        try:
            if os.write(self._descriptor, self._waiting) < len(self._waiting):
                raise OSError(errno.ENOSPC, "No space left on device: only a part of the metrics was written")
        except OSError:
            os.ftruncate(self._descriptor, self.offset)
            raise
        self.offset += len(self._waiting)
        self._waiting = b""

    def sync(self) -> None:
        """Flush, and wait until the lines are on the disk."""
        self.flush()
        os.fsync(self._descriptor)


@contextlib.contextmanager
def _audience(stream: TextIO) -> Iterator[None]:
    """When `stream` turns out to be closed at its other end, send it to nowhere from now on."""
    try:
        yield
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def say(text: str, stream: TextIO) -> None:
    """Print above the progress bar, if there is one; nobody need be listening."""
    with _audience(stream):
        tqdm.write(text, file=stream)
        stream.flush()


class Console:
    """A progress bar on a terminal, an occasional plain line elsewhere; messages appear above the bar.

    Training outlives its console: a stream that nobody reads any more falls silent.
    """

    def __init__(self, config: Config, env_steps: int):
        self._total = config.total_env_steps
        self._shown = config.log.progress
        self._bar: tqdm[Any] | None = None
        if self._shown and sys.stderr.isatty():
            self._bar = tqdm(
                desc=f"{config.env.name} {config.algo.name}",
                initial=min(env_steps, self._total),
                total=self._total,
                unit_scale=True,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} env steps{postfix}",
            )
        self._next_line = time.monotonic() + PLAIN_LINE_SECONDS

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.close()

    def message(self, text: str) -> None:
        """One line for the user."""
        say(text, sys.stdout)

    def warning(self, text: str) -> None:
        """One line on something that went wrong and that training survives."""
        say(f"warning: {text}", sys.stderr)

    def progress(self, env_steps: int, seconds_per_env_step: float, members: int, means: dict[str, float]) -> None:
        """Show where training is: `env_steps` per member, steps/s of all of them together, and the latest means."""
        if not self._shown:
            return
        done, left = min(env_steps, self._total), max(self._total - env_steps, 0) * seconds_per_env_step
        facts = [f"{_count(members / seconds_per_env_step)} steps/s", f"{tqdm.format_interval(left)} left"]
        shown = {"return": "return", "win_rate": "win rate"}
        facts += [f"{shown[key]} {means[key]:.3g}" for key in shown if math.isfinite(means.get(key, math.nan))]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
            with _audience(sys.stderr):
                self._bar.update(done - self._bar.n)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_LINE_SECONDS
            line = f"{100 * done / self._total:3.0f}%  {_count(done)}/{_count(self._total)} env steps, "
            say(line + ", ".join(facts), sys.stderr)


def _count(number: float) -> str:
    return tqdm.format_sizeof(number) if number >= 1000 else f"{number:.0f}"
