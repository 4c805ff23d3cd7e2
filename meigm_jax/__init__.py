"""meigm_jax: maximum-entropy value decomposition for cooperative multi-agent reinforcement learning, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meigm_jax.policy import Policy as Policy
    from meigm_jax.policy import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, `Policy` and `envs`, when they are asked for: commands import this package and must not wait for jax."""
    if name == "envs":
        return importlib.import_module("meigm_jax.envs")
    if name in ("load", "Policy"):
        from meigm_jax import policy

        return getattr(policy, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
