"""The ids of JaxMARL's environments, without importing it: a wrong command must be answered at once."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

from meigm_jax.registry import ConfigError, nearest

LIST = "registered_envs"  # in JaxMARL's registration.py


def check_id(env_id: str) -> None:
    """Raise ConfigError unless JaxMARL has the environment `env_id`."""
    if env_id not in registered():
        raise ConfigError(f"env.id: JaxMARL has no environment '{env_id}'; {nearest(env_id, registered())}")


@functools.cache
def registered() -> tuple[str, ...]:
    """Every id that JaxMARL registers, read from its source."""
    spec = importlib.util.find_spec("jaxmarl")
    assert spec is not None and spec.origin is not None
    source = ast.parse(Path(spec.origin).with_name("registration.py").read_text())
    lists = [
        node.value for node in source.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == LIST
    ]
    return tuple(ast.literal_eval(lists[0]))
