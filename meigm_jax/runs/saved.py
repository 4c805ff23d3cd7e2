"""What a run directory tells without jax: a wrong command must be answered at once."""

from __future__ import annotations

from pathlib import Path

import yaml

from meigm_jax.config import Config, build
from meigm_jax.registry import ConfigError

CHECKPOINTS = ("best", "newest")
MANIFEST = "manifest.json"  # of a checkpoint folder, written last: without it the folder is no checkpoint


def read_config(run_dir: Path, what: str) -> Config:
    """The configuration that the run in `run_dir` was started with. Raises ConfigError, about `what`, without one."""
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{what}: '{run_dir}' is not a run directory (it has no config.yaml)")
    try:
        tree = yaml.safe_load(file.read_text())
        if isinstance(tree, dict):
            tree.pop("versions", None)
        return build(tree)
    except Exception as error:  # the YAML parser has many ways to say that a file is damaged
        raise ConfigError(f"{what}: cannot use '{file}': {error}") from error


def finished_checkpoints(run_dir: Path, which: str = "best") -> list[Path]:
    """Checkpoint folders of a run, newest first; with "best" that of the best evaluation comes before them."""
    folder = run_dir / "checkpoints"
    found = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: -int(path.name))
    if which == "best" and (folder / "best").exists():
        found.insert(0, (folder / "best").resolve())
    return [path for path in found if (path / MANIFEST).is_file()]
