"""meigm_jax: maximum-entropy value decomposition for cooperative multi-agent reinforcement learning, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from meigm_jax.registry import ConfigError

if TYPE_CHECKING:
    from meigm_jax import envs as envs
    from meigm_jax.policy import Policy as Policy
    from meigm_jax.policy import load as load

__all__ = ["ConfigError", "Policy", "__version__", "envs", "load"]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    """What there is, imported already or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """`load`, `Policy` and `envs`, when they are asked for: commands import this package and must not wait for jax."""
    if name == "envs":
        return importlib.import_module("meigm_jax.envs")
    if name in ("load", "Policy"):
        from meigm_jax import policy

        return getattr(policy, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
