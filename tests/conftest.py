"""A program that one test has compiled is not compiled again, neither by other tests nor by the commands they start."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"
made = None

if CACHE not in os.environ:  # before jax is imported; workers inherit it
    made = os.environ[CACHE] = tempfile.mkdtemp(prefix="meigm_jax_compiled_")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what some tests measure is a CPU's
# Compiled sooner, run slower: most programs here run for a moment. (The trainer names its own level: runs/trainer.py.)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files whose few tests take long come first, so that no worker is left alone with them in the end."""
    items.sort(key=lambda item: "runs" not in item.path.parts)


def pytest_unconfigure() -> None:
    """Remove the compiled programs, where this process made their folder."""
    if made is not None:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def experiment() -> Callable[[str], ModuleType]:
    """The script of that name in experiments/, as a module."""

    def load(name: str) -> ModuleType:
        folder = Path(__file__).parents[1] / "experiments"
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)  # where a script finds its neighbours
            spec.loader.exec_module(module)
        return module

    return load
