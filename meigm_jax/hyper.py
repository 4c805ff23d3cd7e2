"""The numbers that may be swept. Stands alone, without jax, so that a configuration is checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hyper(NamedTuple):
    """The numbers that may be swept: always traced arrays, f32[] per member."""

    learning_rate: Any
    opt_learning_rate: Any
    alpha_learning_rate: Any
    max_grad_norm: Any
    gamma: Any
    td_lambda: Any
    epsilon_start: Any
    epsilon_end: Any
    epsilon_decay_steps: Any
    alpha_start: Any
    alpha_end: Any
    alpha_decay_steps: Any
    alpha_min: Any
    alpha_max: Any
    target_entropy: Any
    shaping_start: Any
    shaping_decay_steps: Any


SHORT = {  # what the command line and `sweep` take as well
    "lr": "learning_rate",
    "opt_lr": "opt_learning_rate",
    "alpha_lr": "alpha_learning_rate",
}


def format_number(value: float) -> str:
    """The number in six digits, since training computes in float32; whole ones in full."""
    return str(int(value)) if value.is_integer() else f"{value:.6g}"


def format_hyper(hyper: Mapping[str, float]) -> str:
    """Values of hyper-parameters in words: 'gamma=0.9 td_lambda=0.6'."""
    return " ".join(f"{name}={format_number(value)}" for name, value in hyper.items())
