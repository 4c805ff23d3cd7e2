"""A program that one test has compiled is not compiled again, neither by other tests nor by the commands they start."""

import os
import shutil
import tempfile

CACHE = "JAX_COMPILATION_CACHE_DIR"
made = None

if CACHE not in os.environ:  # before jax is imported; workers inherit it
    made = os.environ[CACHE] = tempfile.mkdtemp(prefix="meigm_jax_compiled_")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def pytest_unconfigure() -> None:
    """Remove the compiled programs, where this process made their folder."""
    if made is not None:
        shutil.rmtree(made, ignore_errors=True)
