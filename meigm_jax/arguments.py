"""What the commands share: wrong arguments are one line and exit code 2. Imports no jax."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from meigm_jax.registry import ConfigError, nearest
from meigm_jax.runs.files import NotSaved


class Parser(argparse.ArgumentParser):
    """Options may stand between other arguments, and are never cut short. Wrong ones are a ConfigError: one line."""

    def __init__(self, prog: str, description: str, epilog: str | None = None):
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.register("type", int, _whole)

    def read(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """What the arguments (None: the process's own) say. Raises ConfigError, with names like an unknown option's."""
        options, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            raise ConfigError(f"unknown option '{unknown[0]}'; {nearest(unknown[0].partition('=')[0], known)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see --help)")


def _whole(text: str) -> int:
    """Of every integer option: 1e3 is one, as in a configuration."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def exit_code(command: Callable[[], int]) -> int:
    """What `command` returns; 130 on Ctrl-C, 141 where nobody reads what it prints (`... | head`).

    2, after one line, on a ConfigError and a path that no file can have; 1 on NotSaved.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: paths hold what a terminal may not know
    try:
        code = command()
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except NotSaved as error:
        print("error:", error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 141
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print("error:", f"{error.strerror}: {error.filename}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
