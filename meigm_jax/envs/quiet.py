"""JaxMARL imported without its side effects, and its states with types of their own."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

MABRAX = "jaxmarl.environments.mabrax"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Import JaxMARL inside: it prints nothing, and sys.stdout and sys.stderr stay what they were."""
    # MABrax, which we don't use, sets both streams to those of the process, past any redirection and pytest's capture.
    # In an empty module JaxMARL finds no MABrax, which it takes for an optional dependency that is not installed.
    sys.modules.setdefault(MABRAX, ModuleType(MABRAX))
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def typed(env_state: Any) -> Any:
    """JaxMARL starts from weakly typed numbers: a function compiled for them would be compiled again after a step."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), env_state)
