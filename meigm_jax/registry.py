"""Parts that a name in a configuration stands for.

A package's `__init__` holds one dict, name -> Part: where the maker lives (imported when it is used, so that
names and options are checked without importing jax) and the options it takes with their defaults.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class ConfigError(ValueError):
    """A wrong configuration, in one line that names what is wrong and what would be right."""


class Option(NamedTuple):
    """An option of a part: its default, its meaning (--help shows it), and what it may be.

    allowed: the only values. check: value, dotted path -> the value; raises ConfigError. With neither, the type of the
    default says it: sizes are at least 1, no number is negative; a default of None stands for a size that is left out.
    """

    default: Any
    meaning: str
    allowed: Sequence[Any] = ()
    check: Callable[[Any, str], Any] | None = None

    def checked(self, value: Any, path: str) -> Any:
        """`value`, if it is one that the option takes. Raises ConfigError."""
        if self.allowed:
            return one_of(value, self.allowed, path)
        if self.check is not None:
            return self.check(value, path)
        if self.default is None and value is None:
            return None
        value = scalar(int if self.default is None else type(self.default), value, path)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise ConfigError(f"{path}: expected an integer of at least 1, got {value}")
        if isinstance(value, float) and value < 0:
            raise ConfigError(f"{path}: expected a number of at least 0, got {value}")
        return value


class Part:
    """One entry of a registry: `target` is "module:function"; further keywords are its options.

    `reads` are the numbers of `hyper` that make a difference to it.
    """

    def __init__(self, target: str, *, reads: Sequence[str] = (), **options: Option):
        self.target = target
        self.reads = reads
        self.options = options

    def defaults(self) -> dict[str, Any]:
        """Every option with its default value."""
        return {key: option.default for key, option in self.options.items()}

    def complete(self, given: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Every option, with the values given. Raises ConfigError, under the dotted `path`, on a wrong one."""
        options = self.defaults()
        for key, value in given.items():
            if key not in options:
                raise ConfigError(f"unknown key '{path}.{key}'; {nearest(str(key), options)}")
            options[key] = value
        return {key: self.options[key].checked(value, f"{path}.{key}") for key, value in options.items()}

    def load(self) -> Callable[..., Any]:
        """Import and return the maker."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


class Rule(Part):
    """A learning rule; `parts` are the slots of `algo` that it is made of, besides the agent."""

    def __init__(self, target: str, parts: Sequence[str] = (), *, reads: Sequence[str] = (), **options: Option):
        super().__init__(target, reads=reads, **options)
        self.parts = parts


class OpenPart(Part):
    """A part that takes further options unchecked: its maker answers for them."""

    def complete(self, given: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Every known option, checked, and the others as they are."""
        known = {key: value for key, value in given.items() if key in self.options}
        return super().complete(known, path) | {key: value for key, value in given.items() if key not in known}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known ones, or all of them when they are few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"


def lookup(registry: Mapping[str, Part], name: str, what: str) -> Part:
    """The Part called `name`, or a ConfigError that names the nearest ones."""
    if name not in registry:
        raise ConfigError(f"{what}: unknown name '{name}'; {nearest(str(name), registry)}")
    return registry[name]


def fraction(value: Any, path: str) -> float:
    """`value` if it is a number from 0 to 1: the check of an Option."""
    value = scalar(float, value, path)
    if not 0 <= value <= 1:
        raise ConfigError(f"{path}: expected a number from 0 to 1, got {value}")
    return value


def scalar(kind: type, value: Any, path: str) -> Any:
    """`value` as `kind`; whole floats pass as int (1e7), bool never passes as a number."""
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and isinstance(value, str):
        value = _number(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {kind.__name__}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    return value


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def one_of(value: Any, allowed: Sequence[Any], path: str) -> Any:
    """`value` if it is among `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{path}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
    return value
