"""What the learning rules share: exploration, optimizers, and the whole of a rule that is a loss and epsilon-greedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from meigm_jax.ops import policies, shards
from meigm_jax.ops.targets import lambda_returns
from meigm_jax.types import (
    Agent,
    Algorithm,
    Array,
    Hyper,
    Learner,
    Metrics,
    Mixer,
    MixInput,
    Params,
    TimeStep,
    Trajectory,
)

# hyper, target parameters, batch, key, online parameters -> (scalar, metrics)
Loss = Callable[[Hyper, Params, Trajectory, Array, Params], tuple[Array, Metrics]]
# learner, time steps [T, B], joint action i32[T, B, N] -> Q_tot [T, B]
JointValue = Callable[[Learner, TimeStep, Array], Array]


def transitions(batch: Trajectory) -> TimeStep:
    """The time steps [T] that transitions start from: all but the last row."""
    return jax.tree.map(lambda x: x[:-1], batch.at)


def mixed(mixer: Mixer, params: Params, q: Array, features: Array, action: Array, at: TimeStep) -> Array:
    """Q_tot(s, action) [...] from all utilities q [..., N, A] and the joint action i32[..., N]."""
    best = policies.take(q, policies.greedy(q, at.avail))
    alive = policies.has_choice(at.avail)
    return mixer.apply(params, MixInput(policies.take(q, action), best, action, at.state, alive, features))


def joint_value_of(agent: Agent, mixer: Mixer) -> JointValue:
    """Q_tot of a network with the groups `agent` and `mixer`."""

    def joint_value(learner: Learner, at: TimeStep, action: Array) -> Array:
        q, features = agent.unroll(learner.params.agent, at)
        return mixed(mixer, learner.params.mixer, q, features, action, at)

    return joint_value


def td_targets(
    hyper: Hyper, batch: Trajectory, bootstrap_on_timeout: bool, value: Array, bonus: Array | None = None
) -> Array:
    """(Soft) TD(lambda) targets [T, B] from the value and the entropy bonus (none: 0) of every row, [T + 1, B]."""
    terminal = batch.terminated if bootstrap_on_timeout else batch.terminated | batch.truncated
    bonus = jnp.zeros_like(value) if bonus is None else bonus
    return lambda_returns(batch.reward, value, bonus, terminal, batch.valid, hyper.gamma, hyper.td_lambda)


def gradients_of(loss: Callable[[Params], tuple[Array, Metrics]], params: Params) -> tuple[Params, Metrics]:
    """Gradients of the loss, and its metrics; loss: parameters -> (scalar, metrics)."""
    gradients, metrics = jax.grad(loss, has_aux=True)(params)
    return shards.mean(gradients), metrics


def clipped_adam(hyper: Hyper, rate: Array) -> optax.GradientTransformation:
    """Adam on gradients scaled down to a global norm of hyper.max_grad_norm."""
    return optax.chain(optax.clip_by_global_norm(hyper.max_grad_norm), optax.adam(rate))


def optimizer_state(optimizer: optax.GradientTransformation, params: Params) -> Any:
    """Its state before the first `descend`; none where there are no parameters."""
    return optimizer.init(ravel_pytree(params)[0]) if jax.tree.leaves(params) else ()


def descend(
    optimizer: optax.GradientTransformation, gradients: Params, state: Any, params: Params
) -> tuple[Params, Any]:
    """Parameters and optimizer state after one step, taken on one array of all parameters: many small ones are slow."""
    if not jax.tree.leaves(params):
        return params, state
    flat, unravel = ravel_pytree(params)
    updates, state = optimizer.update(ravel_pytree(gradients)[0], state, flat)
    return unravel(jnp.asarray(optax.apply_updates(flat, updates))), state


def norm(gradients: Params) -> Array:
    """The Euclidean norm of all gradients together, as clipping knows it: on one array, made once for both."""
    return jnp.asarray(optax.tree.norm(ravel_pytree(gradients)[0]))


def epsilon(hyper: Hyper, step: Array) -> Array:
    """Exploration rate after `step` env steps."""
    return policies.linear_schedule(hyper.epsilon_start, hyper.epsilon_end, hyper.epsilon_decay_steps, step)


def explore(hyper: Hyper, q: Array, at: TimeStep, noise: Array, step: Array, policy: str) -> Array:
    """Actions i32[E, N]: epsilon-greedy when sampled, otherwise the argmax of q [E, N, A]."""
    if policy != "sampled":
        return policies.greedy(q, at.avail)
    return policies.sample(policies.epsilon_greedy(q, at.avail, epsilon(hyper, step)), at.avail, noise)


def utilities_of(agent: Agent) -> Callable[[Any, Any, TimeStep], tuple[Array, Any]]:
    """What acting needs of a network with a group `agent`: network, carry, TimeStep[E] -> (q [E, N, A], carry)."""

    def utilities(network: Any, carry: Any, at: TimeStep) -> tuple[Array, Any]:
        q, _, carry = agent.step(network.agent, carry, at)
        return q, carry

    return utilities


def q_learning(
    init_params: Callable[[Array], Params],
    init_carry: Callable[[int], Any],
    utilities: Callable[[Params, Any, TimeStep], tuple[Array, Any]],
    loss: Loss,
    joint_value: JointValue | None = None,
) -> Algorithm:
    """The rule of one loss: one optimizer for all parameters, epsilon-greedy on the utilities.

    utilities: params, carry, TimeStep[E] -> (q [E, N, A], carry), what acting needs.
    """

    def init(key: Array, hyper: Hyper) -> Learner:
        params = init_params(key)
        state = optimizer_state(clipped_adam(hyper, hyper.learning_rate), params)
        return Learner(params, jax.tree.map(jnp.copy, params), state, hyper)

    def act(learner: Learner, carry: Any, at: TimeStep, noise: Array, step: Array, policy: str) -> tuple[Array, Any]:
        q, carry = utilities(learner.params, carry, at)
        return explore(learner.hyper, q, at, noise, step, policy), carry

    def update(learner: Learner, key: Array, batch: Trajectory, step: Array) -> tuple[Learner, Metrics]:
        def of(params: Params) -> tuple[Array, Metrics]:
            return loss(learner.hyper, learner.target, batch, key, params)

        hyper = learner.hyper
        gradients, metrics = gradients_of(of, learner.params)
        optimizer = clipped_adam(hyper, hyper.learning_rate)
        params, state = descend(optimizer, gradients, learner.optimizer_state, learner.params)
        metrics |= {"grad_norm": norm(gradients), "epsilon": epsilon(hyper, step)}
        return learner._replace(params=params, optimizer_state=state), metrics

    return Algorithm(init, init_carry, act, update, joint_value)
