"""What a command is to train."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from meigm_jax.config import Config


class Job(NamedTuple):
    """One run: its configuration, the run directory that it continues, and the folder of the sweep that it is in."""

    config: Config
    resume: Path | None
    sweep: Path | None = None
