"""What the commands share: wrong arguments are one line and exit code 2. Imports no jax."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable
from typing import NoReturn

from meigm_jax.registry import ConfigError


class Parser(argparse.ArgumentParser):
    """Wrong arguments are a ConfigError: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see --help)")


def exit_code(command: Callable[[], int]) -> int:
    """What `command` returns; 130 on Ctrl-C; 2, after one line, on a ConfigError and a path that no file can have."""
    try:
        return command()
    except ConfigError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print("error:", f"{error.strerror}: {error.filename}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
