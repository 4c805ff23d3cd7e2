"""ME-IGM: maximum-entropy value decomposition with order-preserving transformations (OPT; arXiv 2406.13930).

Behaviour and next actions come from softmax(f_i(q_i; s) / alpha), targets carry the entropy bonus, the OPT f is
regressed on Q_tot. Mixer, OPT and temperature are parts: ME-QMIX, ME-VDN, ME-QPLEX and the paper's ablations are YAMLs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax

from meigm_jax.algos.common import (
    clipped_adam,
    descend,
    gradients_of,
    joint_value_of,
    mixed,
    norm,
    optimizer_state,
    td_targets,
    transitions,
)
from meigm_jax.ops import policies, shards
from meigm_jax.ops.targets import masked_mean
from meigm_jax.types import (
    Agent,
    Algorithm,
    Array,
    EnvSpec,
    Hyper,
    Learner,
    Metrics,
    Mixer,
    Opt,
    Params,
    Temperature,
    TimeStep,
    Trajectory,
)


class Parts(NamedTuple):
    """What the rule is made of (static)."""

    agent: Agent
    mixer: Mixer
    opt: Opt
    temperature: Temperature
    sampled_entropy: bool  # entropy bonus: -log pi of the sampled action (the authors' code), or exact
    bootstrap_on_timeout: bool
    online_opt: bool = False  # next actions by the online OPT, not by the target network's
    # L_TD's weight of every row, in [1/2, 1], from the OPT's error e and Q_tot - y, both [T, B]; None: all alike
    weigh: Callable[[Array, Array], Array] | None = None


class Network(NamedTuple):
    """Parameters by group: agent and mixer learn by L_TD, opt by L_OPT, temperature by its own loss."""

    agent: Params
    mixer: Params
    opt: Params
    temperature: Params


class Next(NamedTuple):
    """What every row's successor would do: action i32[..., N] and entropy bonus f32[...]."""

    action: Array
    bonus: Array


# Given the online utilities of all rows, choose the action that bootstraps from each of them.
ChooseNext = Callable[[Array], Next]


def local_policy(parts: Parts, opt: Params, alpha: Array, q: Array, at: TimeStep) -> distrax.Categorical:
    """The local policies softmax(f_i(q_i; s) / alpha) over available actions (paper, eqs. 5 and 10). q [..., N, A]."""
    logits = parts.opt.apply(opt, q, at.state, policies.has_choice(at.avail))
    return policies.boltzmann(logits / alpha, at.avail)


def choose_next(parts: Parts, opt: Params, alpha: Array, at: TimeStep, key: Array, q: Array) -> Next:
    """One sample of the policy per agent and row, and alpha times the joint entropy, exact or of that sample."""
    pi = local_policy(parts, opt, alpha, q, at)
    action = policies.sample(pi, at.avail, shards.uniform(key, q.shape[:-1], axis=1))
    local = jnp.negative(pi.log_prob(action)) if parts.sampled_entropy else pi.entropy()
    return Next(action, alpha * jnp.sum(local, axis=-1))


def soft_targets(parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, chosen: Next) -> Array:
    """Targets y [T, B] by (soft) TD(lambda): chosen online, evaluated by the target agent and mixer."""
    q, features = parts.agent.unroll(target.agent, batch.at)
    value = mixed(parts.mixer, target.mixer, q, features, chosen.action, batch.at)
    return td_targets(hyper, batch, parts.bootstrap_on_timeout, value, chosen.bonus)


def opt_loss(parts: Parts, opt: Params, q_taken: Array, q_tot: Array, batch: Trajectory) -> tuple[Array, Array]:
    """L_OPT (paper, eqs. 7 and 9) and the error e = sum_i f_i(q_i) - Q_tot [T, B]; only the OPT gets a gradient."""
    state, alive = batch.at.state[:-1], policies.has_choice(batch.at.avail[:-1])
    q_taken, q_tot = jax.lax.stop_gradient((q_taken, q_tot))
    transformed = parts.opt.apply(opt, q_taken[..., None], state, alive).squeeze(-1)
    error = jnp.sum(transformed, axis=-1) - q_tot
    return 0.5 * masked_mean(jnp.square(error), batch.valid), error


def loss(
    parts: Parts, hyper: Hyper, target: Network, batch: Trajectory, choose: ChooseNext, alpha: Array, online: Network
) -> tuple[Array, Metrics]:
    """L_TD + L_OPT + L_alpha: the groups of `online` are disjoint, each gets the gradient of its own term alone."""
    q, features = parts.agent.unroll(online.agent, batch.at)
    fixed_q = jax.lax.stop_gradient(q)
    targets = jax.lax.stop_gradient(soft_targets(parts, hyper, target, batch, choose(fixed_q)))
    rows = transitions(batch)
    q_tot = mixed(parts.mixer, online.mixer, q[:-1], features[:-1], batch.action, rows)
    loss_opt, error = opt_loss(parts, online.opt, policies.take(q[:-1], batch.action), q_tot, batch)
    weight = None if parts.weigh is None else parts.weigh(*jax.lax.stop_gradient((error, q_tot - targets)))
    loss_td = td_loss(q_tot - targets, batch.valid, weight)
    loss_alpha, metrics = temperature_loss(parts, hyper, online, alpha, fixed_q[:-1], rows, batch.valid)
    gap = misalignment(parts, jax.lax.stop_gradient(online), alpha, fixed_q[:-1], features[:-1], rows)
    metrics |= {
        "q_tot_mean": masked_mean(q_tot, batch.valid),
        "loss_td": loss_td,
        "loss_opt": loss_opt,
        "opt_error": masked_mean(jnp.abs(error), batch.valid),
        "misalignment": masked_mean(gap, batch.valid),
    }
    return loss_td + loss_opt + loss_alpha, metrics


def td_loss(error: Array, valid: Array, weight: Array | None = None) -> Array:
    """Half the (weighted) mean of the squared error [T, B] over valid rows."""
    if weight is None:
        return 0.5 * masked_mean(jnp.square(error), valid)
    mean_weight = jnp.maximum(masked_mean(weight, valid), 0.5)  # 1/2 is the least; 0 where no row is valid
    return 0.5 * masked_mean(weight * jnp.square(error), valid) / mean_weight


def temperature_loss(
    parts: Parts, hyper: Hyper, online: Network, alpha: Array, q: Array, at: TimeStep, valid: Array
) -> tuple[Array, Metrics]:
    """J(alpha) (paper, eq. 11) from the exact joint entropy of the current policy on valid rows."""
    entropy = jnp.sum(local_policy(parts, jax.lax.stop_gradient(online.opt), alpha, q, at).entropy(), axis=-1)
    wanted = parts.temperature.target(hyper, policies.has_choice(at.avail))
    entropy, wanted = masked_mean(entropy, valid), masked_mean(wanted, valid)
    metrics = {"alpha": alpha, "entropy": entropy, "target_entropy": wanted}
    return parts.temperature.loss(online.temperature, entropy - wanted), metrics


def misalignment(parts: Parts, online: Network, alpha: Array, q: Array, features: Array, at: TimeStep) -> Array:
    """Figure 2's gap max_a Q_tot(s, a) - Q_tot(s, argmax_i pi_i) [...]; 0 wherever the mixer's IGM holds."""
    logits = jnp.asarray(local_policy(parts, online.opt, alpha, q, at).logits)
    likeliest = mixed(parts.mixer, online.mixer, q, features, policies.mode(logits, q, at.avail), at)
    best = mixed(parts.mixer, online.mixer, q, features, policies.greedy(q, at.avail), at)
    return best - likeliest


class Groups(NamedTuple):
    """By optimizer: agent and mixer, which are clipped together, the OPT, the temperature."""

    value: Any
    opt: Any
    temperature: Any


def groups(network: Network) -> Groups:
    """The parameters, or their gradients, as the optimizers see them."""
    return Groups((network.agent, network.mixer), network.opt, network.temperature)


def optimizers(hyper: Hyper) -> Groups:
    """One optax chain per group."""
    value, opt = clipped_adam(hyper, hyper.learning_rate), clipped_adam(hyper, hyper.opt_learning_rate)
    return Groups(value, opt, optax.adam(hyper.alpha_learning_rate))


def init(parts: Parts, key: Array, hyper: Hyper) -> Learner:
    """Fresh parameters, their copy as target, and optimizer states."""
    k_agent, k_mixer, k_opt = jax.random.split(key, 3)
    params = Network(
        parts.agent.init(k_agent), parts.mixer.init(k_mixer), parts.opt.init(k_opt), parts.temperature.init(hyper)
    )
    states = Groups(*map(optimizer_state, optimizers(hyper), groups(params)))
    return Learner(params, jax.tree.map(jnp.copy, params), states, hyper)


def update(parts: Parts, learner: Learner, key: Array, batch: Trajectory, step: Array) -> tuple[Learner, Metrics]:
    """One gradient step on a batch of sequences."""
    params, target, states, hyper = learner
    alpha = jax.lax.stop_gradient(parts.temperature.alpha(params.temperature, hyper, step))
    opt = params.opt if parts.online_opt else target.opt
    choose = partial(choose_next, parts, opt, alpha, batch.at, key)
    gradients, metrics = gradients_of(partial(loss, parts, hyper, target, batch, choose, alpha), params)
    steps = map(descend, optimizers(hyper), groups(gradients), states, groups(params))
    ((agent, mixer), opt, temperature), states = zip(*steps, strict=True)
    params = Network(agent, mixer, opt, parts.temperature.project(temperature, hyper))
    metrics |= {"grad_norm": norm((gradients.agent, gradients.mixer)), "grad_norm_opt": norm(gradients.opt)}
    return learner._replace(params=params, optimizer_state=Groups(*states)), metrics


def act(
    parts: Parts, learner: Learner, carry: Any, at: TimeStep, noise: Array, step: Array, policy: str
) -> tuple[Array, Any]:
    """Actions i32[E, N]. greedy: argmax of raw q, decentralised; mode: argmax of pi; sampled: the behaviour policy."""
    params, hyper = learner.params, learner.hyper
    q, _, carry = parts.agent.step(params.agent, carry, at)
    if policy == "greedy":
        return policies.greedy(q, at.avail), carry
    pi = local_policy(parts, params.opt, parts.temperature.alpha(params.temperature, hyper, step), q, at)
    if policy == "mode":
        return policies.mode(jnp.asarray(pi.logits), q, at.avail), carry
    return policies.sample(pi, at.avail, noise), carry


def algorithm(parts: Parts) -> Algorithm:
    """The rule with its parts."""
    return Algorithm(
        init=partial(init, parts),
        init_carry=parts.agent.init_carry,
        act=partial(act, parts),
        update=partial(update, parts),
        joint_value=joint_value_of(parts.agent, parts.mixer),
    )


def make(
    spec: EnvSpec,
    agent: Agent,
    mixer: Mixer,
    opt: Opt,
    temperature: Temperature,
    bootstrap_on_timeout: bool,
    entropy: str,
) -> Algorithm:
    """The rule by its options. entropy: exact | sampled."""
    return algorithm(Parts(agent, mixer, opt, temperature, entropy == "sampled", bootstrap_on_timeout))
