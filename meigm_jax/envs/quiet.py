"""JaxMARL imported without its side effects, and its states with types of their own."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

MABRAX = "jaxmarl.environments.mabrax"
PACKAGES = ("jaxmarl", "jaxmarl.environments")  # each imports every environment, and many compile something for that


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Import JaxMARL inside: only what is asked for, it prints nothing, and sys.stdout and sys.stderr stay the same."""
    # MABrax, which we don't use, sets both streams to those of the process, past any redirection and pytest's capture.
    # In an empty module JaxMARL finds no MABrax, which it takes for an optional dependency that is not installed.
    sys.modules.setdefault(MABRAX, ModuleType(MABRAX))
    for package in PACKAGES:
        if package not in sys.modules:
            module = sys.modules[package] = _lazy(package)
            parent, _, name = package.rpartition(".")
            if parent:
                setattr(sys.modules[parent], name, module)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _lazy(package: str) -> ModuleType:
    """The module of `package`, whose own code runs once a name is asked for that is no module inside it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.loader is not None
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def missing(name: str) -> Any:
        if importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        vars(module).pop("__getattr__", None)
        with contextlib.redirect_stdout(io.StringIO()):
            loader.exec_module(module)
        return getattr(module, name)

    vars(module)["__getattr__"] = missing
    return module


def typed(env_state: Any) -> Any:
    """JaxMARL starts from weakly typed numbers: a function compiled for them would be compiled again after a step."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), env_state)
