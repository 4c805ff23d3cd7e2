"""The numbers that may be swept. Stands alone, without jax, so that a configuration is checked at once."""

from __future__ import annotations

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
