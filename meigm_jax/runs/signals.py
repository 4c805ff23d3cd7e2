"""Ctrl-C, SIGTERM, a closed terminal: finish the chunk in flight, save, leave with the code that shells expect."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_SECONDS = 0.2  # `timeout` signals a process, and then its group: what comes twice so soon is one signal
GRACE_SECONDS = 1.0  # for Python code to unwind when there is nothing to save


class StopSignals:
    """Context in which the first signal asks to stop and a second, no mere repeat of it, ends the process at once.

    Before `armed` is set there is nothing worth saving and the first signal already raises SystemExit(128 + number).
    Python's own handlers wait for the interpreter, which a compilation blocks for long: a thread that reads the
    wake-up descriptor ends the process in that case. Outside the main thread the context does nothing.
    """

    def __init__(self) -> None:
        self.armed = False
        self.signum: int | None = None
        self._restored = threading.Event()

    def __enter__(self) -> Self:
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            heard = [number for number in SIGNALS if not _is_to_be_ignored(number)]
            self._old = {number: signal.signal(number, self._handle) for number in heard}
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._active:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_wakeup)
            self._restored.set()
            os.close(self._writer)  # ends the thread

    def leave_if_asked(self) -> None:
        """Raise SystemExit(128 + number) when a signal has come."""
        if self.signum is not None:
            raise SystemExit(128 + self.signum)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signum is None:  # what a second one does is up to `_watch`, which knows when it came
            self.signum = number
            if not self.armed:
                self.leave_if_asked()

    def _watch(self) -> None:
        first = None
        while byte := os.read(self._reader, 1):
            if byte[0] not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                if not self.armed and not self._restored.wait(GRACE_SECONDS):
                    os._exit(128 + byte[0])
            elif time.monotonic() - first > REPEAT_SECONDS:
                os._exit(128 + byte[0])
        os.close(self._reader)


def _is_to_be_ignored(number: int) -> bool:
    """Whether whoever started the process (nohup) wants it to live on when the terminal closes."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
