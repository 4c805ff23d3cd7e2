"""What the commands share: wrong arguments are one line and exit code 2. Imports no jax."""

from __future__ import annotations

import argparse
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
    """What `command` returns; 2 on a ConfigError, which is printed in one line; 130 on Ctrl-C."""
    try:
        return command()
    except ConfigError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
