"""CONTRIBUTING's layers: a file imports only what stands below it, wherever in the file the import is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "meigm_jax"
BASE = {"registry", "types", "hyper"}
MAY_IMPORT = {  # of the package's folders, what each may import besides itself
    "ops": BASE,
    "modules": BASE | {"ops"},
    "mixers": BASE | {"ops", "modules"},
    "algos": BASE | {"ops", "modules", "mixers"},
    "envs": BASE | {"ops", "arguments"},  # which a module that is a command reads, too
    "engine": BASE | {"ops"},
    "runs": BASE | {"ops", "modules", "mixers", "algos", "envs", "engine", "config", "arguments", ""},
    "report": BASE | {"runs", "arguments", "looks", ""},
}


def imported(file: Path) -> set[str]:
    """The modules and folders of the package that a file imports; "" for the package itself."""
    ours = [name.split(".") for name in modules(file) if name.split(".")[0] == "meigm_jax"]
    known = {path.stem for path in PACKAGE.iterdir()}
    return {parts[1] if len(parts) > 1 and parts[1] in known else "" for parts in ours}


def modules(file: Path) -> list[str]:
    """Everything that a file imports, dotted: "a.b.c" for c from a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: a relative import"
            names += [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names += [name.name for name in node.names]
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_stands_below_it(folder: str) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        assert imported(file) <= MAY_IMPORT[folder] | {folder}, file


def test_every_folder_has_its_layer() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(MAY_IMPORT)


def test_hydra_stays_in_the_training_command() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if "hydra" in {name.split(".")[0] for name in modules(path)}}
    assert users == {"train.py"}
