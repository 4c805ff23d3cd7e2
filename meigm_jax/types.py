"""The shared types: what flows between environments, algorithms and the engine.

Axis legend, used everywhere: S seeds (members), E parallel environments, T time, B sequences,
N agents, O observation size, G global-state size, A actions, H hidden size. Batches are time-major.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from meigm_jax.hyper import Hyper as Hyper

Array = jax.Array
Params = Any  # a tree of arrays
Metrics = dict[str, Array]  # name -> f32[]


class EnvSpec(NamedTuple):
    """What the rest of the program has to know about an environment (all static)."""

    name: str
    num_agents: int  # N
    num_actions: int  # A
    obs_dim: int  # O
    state_dim: int  # G
    episode_limit: int  # the longest possible episode, in steps
    min_episode_length: int  # about the shortest, in steps: sizes the pool of start states, which more episodes repeat
    outcomes: tuple[str, ...]  # keys of `info`: f32[] outcomes of the episode, read where it ends ("win", ...)
    obs_shape: tuple[int, ...] = ()  # an observation's own shape, product O: (height, width, channels); (): flat
    unit_dim: int = 0  # the state begins with so many numbers of each agent, one agent after the other; 0: it does not
    shaped: bool = False  # `info` has "shaped_reward", f32[]: of every step, for learning alone
    win: str = ""  # what a win is, or what there is to gain where there is none: in words, for the user


class TimeStep(NamedTuple):
    """Where we are now: one environment, agents stacked."""

    obs: Array  # f32[N, O]
    state: Array  # f32[G]
    avail: Array  # bool[N, A]
    first: Array  # bool[]: clear the recurrent carry before reading obs
    last_action: Array  # i32[N]: the action that led here; -1 where there is none (one-hot: zeros)


class Trajectory(NamedTuple):
    """One sequence: T + 1 time steps and what happened between them. Leaves get E or B after time.

    An episode's last time step has a row of its own, whose action does not count (`valid` = False);
    the row after it is the `first` of the next episode.
    """

    at: TimeStep  # [T + 1]
    action: Array  # i32[T, N]
    reward: Array  # f32[T]: one team reward, already scaled
    terminated: Array  # bool[T]: the episode ended here for good
    truncated: Array  # bool[T]: the time limit, and only it, ended the episode here
    valid: Array  # bool[T]: this row is a real transition
    shaped_reward: Array | None = None  # f32[T]: scaled as the reward, weighted only when learnt from; None: no shaping


class Env(NamedTuple):
    """An unbatched environment; the engine adds E."""

    spec: EnvSpec
    reset: Callable[[Array], tuple[Any, TimeStep]]  # key -> (env_state, time step)
    # key, or random numbers that were drawn from it before (`draw`); env_state; i32[N]
    # -> (env_state, time step, reward f32[], terminated, truncated, info)
    step: Callable[[Any, Any, Array], tuple[Any, TimeStep, Array, Array, Array, Metrics]]
    normalise: Callable[[TimeStep], TimeStep]  # observations and state to order one; what training reads
    # env states of one episode (leaves np.ndarray) -> one picture each, u8[height, width, 3]; runs on the host
    render: Callable[[Sequence[Any]], Sequence[np.ndarray]] | None = None
    training_spec: EnvSpec | None = None  # of what `normalise` returns, where its sizes are others
    draw: Callable[[Array], Any] = lambda key: (
        key
    )  # key -> the random numbers of a step, so that many are drawn at once
    # What a replay may keep instead of observations and state: env_state -> small arrays, and from these the two,
    # f32[N, O] and f32[G]. None: it has to keep both
    compact: Callable[[Any], Any] | None = None
    expand: Callable[[Any], tuple[Array, Array]] | None = None


class MixInput(NamedTuple):
    """What a mixer may read; what it does not need it does not read. Any leading axes."""

    q_taken: Array  # f32[..., N]: utility of the chosen action
    q_max: Array  # f32[..., N]: largest utility over available actions
    action: Array  # i32[..., N]
    state: Array  # f32[..., G]
    alive: Array  # bool[..., N]: the agent has a choice to make
    features: Array  # f32[..., N, H]: the agent's last hidden layer


class Agent(NamedTuple):
    """Local utilities, parameters shared over agents."""

    init: Callable[[Array], Params]
    init_carry: Callable[[int], Any]  # number of environments -> the recurrent carry, [E, N, H]
    # One time step: params, carry, TimeStep[E] -> (q [E, N, A], features [E, N, H], carry)
    step: Callable[[Params, Any, TimeStep], tuple[Array, Array, Any]]
    # A sequence from the zero carry: params, TimeStep[T, B] -> (q [T, B, N, A], features [T, B, N, H])
    unroll: Callable[[Params, TimeStep], tuple[Array, Array]]
    head: Callable[[Params, Array], Array]  # the last layer alone: params, features [..., H] -> q [..., A]
    feature_dim: int  # H


class Mixer(NamedTuple):
    """Credit assignment: local utilities to one joint value."""

    init: Callable[[Array], Params]
    apply: Callable[[Params, MixInput], Array]  # -> q_tot [...]


class Opt(NamedTuple):
    """The order-preserving transformation f_i(.; s), element-wise over actions (paper, eq. 2)."""

    init: Callable[[Array], Params]
    # params, q [..., N, A], state [..., G], alive [..., N] -> [..., N, A]
    apply: Callable[[Params, Array, Array, Array], Array]


class Temperature(NamedTuple):
    """The entropy weight alpha > 0: fixed, scheduled or learned."""

    init: Callable[[Hyper], Params]
    alpha: Callable[[Params, Hyper, Array], Array]  # params, hyper, env step -> f32[] > 0
    target: Callable[[Hyper, Array], Array]  # hyper, alive bool[..., N] -> target of the joint entropy [...], nats
    loss: Callable[[Params, Array], Array]  # params, mean of (joint entropy - target) -> f32[]
    project: Callable[[Params, Hyper], Params]  # back into the allowed range after an optimizer step


class Learner(NamedTuple):
    """Everything that learning changes. `target` is a copy of `params`, never an alias (donation)."""

    params: Params
    target: Params
    optimizer_state: Any
    hyper: Hyper


class Algorithm(NamedTuple):
    """A learning rule, pure and unbatched over seeds."""

    init: Callable[[Array, Hyper], Learner]
    init_carry: Callable[[int], Any]  # number of environments -> the acting carry
    # learner, carry, TimeStep[E], key or uniform numbers f32[E, N] (an agent needs one to choose, see
    # policies.sample), env step, policy (static) -> (i32[E, N], carry). The policy "sampled" explores,
    # "greedy" is the argmax of each agent's q, "mode" that of its policy pi (greedy where there is no pi)
    act: Callable[[Learner, Any, TimeStep, Array, Array, str], tuple[Array, Any]]
    # learner, key, Trajectory[T, B], env step -> (learner, metrics)
    update: Callable[[Learner, Array, Trajectory, Array], tuple[Learner, Metrics]]
    # learner, TimeStep[T, B] from an episode's start, i32[T, B, N] -> what the team is expected to get, f32[T, B]
    joint_value: Callable[[Learner, TimeStep, Array], Array] | None = None  # None: the rule has no joint value
