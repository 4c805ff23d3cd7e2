"""JaxMARL imported without its side effects."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from types import ModuleType

MABRAX = "jaxmarl.environments.mabrax"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Import JaxMARL inside: it prints nothing, and sys.stdout and sys.stderr stay what they were."""
    # MABrax, which we don't use, sets both streams to those of the process, past any redirection and pytest's capture.
    # In an empty module JaxMARL finds no MABrax, which it takes for an optional dependency that is not installed.
    sys.modules.setdefault(MABRAX, ModuleType(MABRAX))
    with contextlib.redirect_stdout(io.StringIO()):
        yield
