"""Weights & Biases as a sink of metrics, when asked for: a run never fails, hangs or asks a question because of it.

All of wandb lives in a process of its own (`wandb_sender.py`), which follows metrics.jsonl: the trainer tells it how
far the file holds whole points, hears what there is to tell the user, and ends it when it takes too long.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from meigm_jax.config import Config
from meigm_jax.runs.logger import Console

FINISH_SECONDS = 60.0  # to wait for what is still to be sent when the run is complete
HURRY_SECONDS = 5.0  # the same when it was stopped
FOLLOW = "follow"  # argument of the sender: to be told by this process what it may send
COMPLETE = "complete"  # what the sender is told when summary.json is there
WARNING = "warning: "  # how a line from the sender begins that is one
PACKAGES = str(Path(__file__).resolve().parents[2])  # where the sender finds this package


class Wandb:
    """The process that sends a run to wandb; nothing when wandb is disabled. No method raises, or waits for long."""

    def __init__(self, config: Config, run_dir: Path, console: Console):
        """Start the process. `run_dir` has its config.yaml and metrics.jsonl."""
        self._run_dir, self._console = run_dir, console
        self._warned, self._complete = False, False
        self._process: subprocess.Popen[str] | None = None
        if config.wandb.mode == "disabled":
            return
        path = os.pathsep.join(filter(None, (PACKAGES, os.environ.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meigm_jax.runs.wandb_sender", str(run_dir), FOLLOW],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C in the terminal is for the trainer, which then ends the sender
            )
        except OSError as error:
            self._warn(f"wandb is off for this run: {error}")
            return
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def commit(self, offset: int) -> None:
        """The first `offset` bytes of metrics.jsonl are whole points: all that is measured at their env steps."""
        self._tell(str(offset))

    def complete(self) -> None:
        """The run has reached its end; summary.json is written."""
        self._complete = True
        self._tell(COMPLETE)

    def finish(self, hurry: Callable[[], bool]) -> None:
        """End the process, after it has sent the rest as far as there is time: less of it while `hurry()`."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        begin = time.monotonic()
        while self._listener.is_alive():
            self._listener.join(0.1)
            seconds = FINISH_SECONDS if self._complete and not hurry() else HURRY_SECONDS
            if time.monotonic() - begin > seconds:
                command = f"python -m meigm_jax.runs.wandb_sender {self._run_dir}"
                rest = command if self._complete else "resume the run"
                self._warn(f"wandb was left after {seconds:.0f} s; to send the rest: {rest}")
                break
        self._process.kill()
        self._listener.join(1.0)

    def _tell(self, text: str) -> None:
        """One line to the sender. Lost when it has died, or has not read for long: a later one tells as much."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                os.write(self._process.stdin.fileno(), f"{text}\n".encode())

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip("\n")
            if text.startswith(WARNING):
                self._warn(text.removeprefix(WARNING))
            else:
                self._console.message(text)
        if code := process.wait():
            self._warn(f"wandb is off for the rest of this run: its process has ended with code {code}")

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._console.warning(text)
