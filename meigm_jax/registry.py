"""Parts that a name in a configuration stands for.

A package's `__init__` holds one dict, name -> Part: where the maker lives (imported when it is used, so that
names and options are checked without importing jax) and the options it takes with their defaults.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any


class ConfigError(ValueError):
    """A wrong configuration, in one line that names what is wrong and what would be right."""


class OneOf(tuple[str, ...]):
    """The allowed values of a string option; the first is the default."""

    def __new__(cls, *values: str) -> OneOf:
        return super().__new__(cls, values)


class Part:
    """One entry of a registry: `target` is "module:function"; the keywords are its options with defaults."""

    def __init__(self, target: str, **options: Any):
        self.target = target
        self.options = options

    def defaults(self) -> dict[str, Any]:
        """Every option with its default value."""
        return {key: value[0] if isinstance(value, OneOf) else value for key, value in self.options.items()}

    def load(self) -> Callable[..., Any]:
        """Import and return the maker."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known ones, or all of them when they are few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"


def lookup(registry: dict[str, Part], name: str, what: str) -> Part:
    """The Part called `name`, or a ConfigError that names the nearest ones."""
    if name not in registry:
        raise ConfigError(f"{what}: unknown name '{name}'; {nearest(str(name), registry)}")
    return registry[name]
