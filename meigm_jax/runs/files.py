"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


class NotSaved(Exception):
    """A run was trained to its end, and that end could not be written to the disk."""


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
