"""Files that are there whole or not at all, and folders that nobody has taken yet."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


class NotSaved(Exception):
    """A run was trained to its end, and that end could not be written to the disk."""


def taken(path: Path) -> bool:
    """Whether something lies there, other than an empty folder."""
    return os.path.lexists(path) and (not path.is_dir() or any(path.iterdir()))


def free(path: Path) -> Path:
    """`path`, or where it is taken the first of path_2, path_3, ... that is not."""
    numbered = (path.with_name(f"{path.name}_{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not taken(each))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises OSError and leaves nothing when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(path.name + ".tmp")
    try:
        with open(partial_file, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, path)
    except OSError:
        partial_file.unlink(missing_ok=True)
        raise
