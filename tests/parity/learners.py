"""Golden files of learners: losses and their gradients, and every step towards them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.algos import me_igm, qtran, quantile_mixture, soft_qmix, value_decomposition
from meigm_jax.algos.common import mixed, transitions
from meigm_jax.hyper import Hyper
from meigm_jax.mixers import qmix, qplex, vdn
from meigm_jax.modules import agent, opt, temperature
from meigm_jax.ops import policies
from tests.ops.forward_view import lambda_mixture
from tests.parity import golden as files
from tests.parity.compare import agree, same


def hyper(golden):
    """The file's discount and lambda; learners of one-step targets have none: 0."""
    zeros = Hyper(*(jnp.zeros(()) for _ in Hyper._fields))
    td_lambda = jnp.asarray(golden.given.get("td_lambda", 0.0))
    return zeros._replace(gamma=jnp.asarray(golden.given["gamma"]), td_lambda=td_lambda)


def spec_and_agent(golden):
    """The file's environment and its GRU agent."""
    *_, num_agents, num_actions = golden.given["avail_actions"].shape
    obs_dim, state_dim = golden.given["obs"].shape[-1], golden.given["states"].shape[-1]
    spec = files.spec(num_agents, num_actions, obs_dim, state_dim)
    return spec, agent.make_gru(spec, golden.param["agent.fc1.weight"].shape[0])


class Learning:
    """A learner file of ME-IGM as our parts, batch and networks."""

    def __init__(self, golden):
        self.golden, self.out, self.given = golden, golden.out, golden.given
        self.batch = files.batch(golden)
        self.spec, self.gru = spec_and_agent(golden)
        self.qplex = "mixer.V.0.weight" in golden.param
        self.opt_prefix = "opt." if self.qplex else "mixer."  # whose hyper_w and hyper_b are the OPT's
        self.torch = {name: jnp.asarray(x) for name, x in golden.param.items()}
        self.parts = self.make_parts()
        self.target = self.network(self.torch, "target_")
        self.alpha = jnp.asarray(golden.given.get("alpha", 1.0))
        self.hyper = hyper(golden)

    def mixer(self):
        mixer_params = files.below(self.golden.param, "mixer")
        if self.qplex:
            return qplex.make(self.spec, **files.qplex_sizes(mixer_params), weighted_head=True)
        return qmix.make(self.spec, **files.qmix_sizes(mixer_params), mask_dead=False)

    def utilities_and_mixer(self, torch, prefix):
        mixer_params = files.below(torch, f"{prefix}mixer")
        gru = files.gru_agent(files.below(torch, f"{prefix}agent"))
        return gru, files.qplex(mixer_params) if self.qplex else files.qmix(mixer_params)

    def make_parts(self):
        width = self.golden.param[f"{self.opt_prefix}hyper_w.0.weight"].shape[0]
        affine = opt.make_affine(self.spec, width, mask_dead=False)
        return me_igm.Parts(self.gru, self.mixer(), affine, temperature.make_fixed(self.spec), True, False)

    def network(self, torch, prefix=""):
        affine = files.affine(files.below(torch, f"{prefix}{self.opt_prefix[:-1]}"))
        return me_igm.Network(*self.utilities_and_mixer(torch, prefix), affine, {})

    def policy_opt(self):
        """The OPT of the policy that chooses next actions."""
        return self.network(self.torch).opt if self.parts.online_opt else self.target.opt

    def policy(self, q):
        return me_igm.local_policy(self.parts, self.policy_opt(), self.alpha, q, self.batch.at)

    def choose(self, q):
        """The stored next actions in place of fresh samples."""
        pi = self.policy(q)
        picked = files.time_major(self.given["picked_actions"])
        return me_igm.Next(picked, -self.alpha * jnp.sum(pi.log_prob(picked), axis=-1))

    def loss(self, torch):
        online = self.network(torch)
        return me_igm.loss(self.parts, self.hyper, self.target, self.batch, self.choose, self.alpha, online)

    def targets(self, q):
        return me_igm.soft_targets(self.parts, self.hyper, self.target, self.batch, self.choose(q))

    def values(self):
        """Utilities of all rows, their features, and Q_tot of the transitions; checked on the way."""
        online = self.network(self.torch)
        q, features = self.parts.agent.unroll(online.agent, self.batch.at)
        agree(q, self.out["q"], "q")
        rows = transitions(self.batch)
        q_tot = mixed(self.parts.mixer, online.mixer, q[:-1], features[:-1], self.batch.action, rows)
        kept = jnp.where(self.batch.valid, q_tot, 0.0) if self.qplex else q_tot  # stored times the mask
        agree(kept[..., None], self.out["q_tot"], "q_tot")
        agree(policies.take(q[:-1], self.batch.action), self.out["q_chosen"], "q_chosen")
        return q, q_tot

    def check_target_values(self, action):
        target_q, features = self.parts.agent.unroll(self.target.agent, self.batch.at)
        agree(target_q, self.out["target_q"], "target_q")
        value = mixed(self.parts.mixer, self.target.mixer, target_q, features, action, self.batch.at)
        theirs = self.out["target_q_tot"]
        if self.qplex:  # in padding, its maximum over no available action means nothing
            there = self.batch.at.avail.any(axis=(-1, -2))
            value, theirs = jnp.where(there, value, 0.0), np.where(there.T[..., None], theirs, 0.0)
        agree(value[..., None], theirs, "target_q_tot")
        return value

    def check_targets(self, q):
        valid = np.asarray(self.batch.valid)
        agree(self.targets(q), np.where(valid.T, self.out["targets"][..., 0], 0.0), "targets")


def check_loss_gradients(learning, golden, names):
    (value, metrics), gradients = jax.value_and_grad(learning.loss, has_aux=True)(learning.torch)
    assert names
    for name in names:
        same(gradients[name], golden.grad[name], f"gradient of {name}")
    return value, metrics


class Plain(Learning):
    """A learner file of plain value decomposition."""

    def make_parts(self):
        return value_decomposition.Parts(self.gru, self.mixer(), False)

    def network(self, torch, prefix=""):
        return value_decomposition.Network(*self.utilities_and_mixer(torch, prefix))

    def loss(self, torch):
        online, key = self.network(torch), jax.random.key(0)
        return value_decomposition.loss(self.parts, self.hyper, self.target, self.batch, key, online)

    def targets(self, q):
        return value_decomposition.targets(self.parts, self.hyper, self.target, self.batch, q)


def qmix_loss(golden):
    learning = Plain(golden)
    q, _ = learning.values()
    best = policies.greedy(q, learning.batch.at.avail)
    agree(best, golden.out["argmax_actions"], "argmax_actions")
    learning.check_target_values(best)
    learning.check_targets(q)
    value, metrics = check_loss_gradients(learning, golden, list(golden.grad))
    same(value, golden.out["loss"], "loss")
    same(metrics["loss_td"], golden.out["L_td"], "L_td")


def me_qmix_loss(golden):
    """In full where the reference is right; where its targets leak (episodes end, lambda > 0), L_td by definition."""
    learning = Learning(golden)
    q, q_tot = learning.values()
    check_policy(learning, q)
    chosen = learning.choose(q)
    value = learning.check_target_values(chosen.action)
    leaks = golden.given["td_lambda"] > 0 and bool(np.any(learning.batch.terminated))
    of_opt = [name for name in golden.grad if name.startswith(tuple(f"{learning.opt_prefix}hyper_{x}." for x in "wb"))]
    loss, metrics = check_loss_gradients(learning, golden, of_opt if leaks else list(golden.grad))
    same(metrics["loss_opt"], golden.out["L_opt"], "L_opt")
    expected = brute_force_targets(learning, value, chosen.bonus)
    same(learning.targets(q), expected, "targets by definition")
    valid = np.asarray(learning.batch.valid)
    loss_td = 0.5 * np.mean((np.asarray(q_tot)[valid] - expected[valid]) ** 2)
    same(metrics["loss_td"], loss_td, "L_td by definition")
    same(loss, loss_td + golden.out["L_opt"], "loss by definition")
    if not leaks:
        learning.check_targets(q)
        same(metrics["loss_td"], golden.out["L_td"], "L_td")
        same(loss, golden.out["loss"], "loss")


def check_policy(learning, q):
    batch, out = learning.batch, learning.out
    alive = policies.has_choice(batch.at.avail)
    agree(learning.parts.opt.apply(learning.policy_opt(), q, batch.at.state, alive), out["opt_q"], "opt_q")
    pi = learning.policy(q)
    agree(pi.probs, out["pi"], "pi")
    picked = files.time_major(learning.given["picked_actions"])
    agree(pi.log_prob(picked), out["log_pi_picked"], "log_pi_picked")
    agree(learning.choose(q).bonus[..., None] / learning.alpha, out["entropy"], "entropy")


def brute_force_targets(learning, value, bonus):
    """Forward-view targets [T, B] row by row: every row of a golden batch is one episode and then padding."""
    batch = learning.batch
    gamma, lam = float(learning.hyper.gamma), float(learning.hyper.td_lambda)
    expected = np.zeros(batch.reward.shape)
    for b, length in enumerate(np.asarray(batch.valid).sum(axis=0)):
        reward = np.asarray(batch.reward)[:length, b]
        after = slice(None, length + 1)
        terminated = bool(batch.terminated[length - 1, b])
        expected[:length, b] = lambda_mixture(
            reward, np.asarray(value)[after, b], np.asarray(bonus)[after, b], terminated, gamma, lam
        )
    return expected


class SoftQMix(Learning):
    """Soft-QMIX's published learner: utilities pass g, their sum is Q_tot, f makes the policy."""

    def make_parts(self):
        param = self.golden.param
        hypernet_dim, size = (param[f"mixer.{name}.0.weight"].shape[0] for name in ("hyper_w3", "hyper_b3"))
        width = size // self.spec.num_agents
        g = opt.make_two_layer(self.spec, hypernet_dim, width, residual=True, mask_dead=False)
        return me_igm.Parts(
            soft_qmix.transformed(self.gru, g),
            vdn.make(self.spec),
            opt.make_affine(self.spec, param["mixer.hyper_w5.0.weight"].shape[0], mask_dead=False),
            temperature.make_fixed(self.spec),
            sampled_entropy=True,
            bootstrap_on_timeout=False,
            online_opt=True,
            weigh=soft_qmix.halved,
        )

    def network(self, torch, prefix=""):
        mixer = files.below(torch, f"{prefix}mixer")
        utilities = soft_qmix.Utilities(files.gru_agent(files.below(torch, f"{prefix}agent")), files.two_layer(mixer))
        f = files.affine(mixer, "hyper_w5", "hyper_b5") if "hyper_w5.0.weight" in mixer else {}
        return me_igm.Network(utilities, {}, f, {})

    def loss_with(self, targets, torch):
        """The loss as ours computes it, but for the targets."""
        online = self.network(torch)
        q, features = self.parts.agent.unroll(online.agent, self.batch.at)
        rows = transitions(self.batch)
        q_tot = mixed(self.parts.mixer, online.mixer, q[:-1], features[:-1], self.batch.action, rows)
        taken = policies.take(q[:-1], self.batch.action)
        loss_opt, error = me_igm.opt_loss(self.parts, online.opt, taken, q_tot, self.batch)
        weight = self.parts.weigh(*jax.lax.stop_gradient((error, q_tot - targets)))
        return me_igm.td_loss(q_tot - targets, self.batch.valid, weight) + loss_opt


def soft_qmix_loss(golden):
    """Everything but the targets against the file; these too where it does not leak, and always by definition."""
    learning = SoftQMix(golden)
    q, _ = learning.values()
    check_policy(learning, q)
    chosen = learning.choose(q)
    value = learning.check_target_values(chosen.action)
    theirs = files.time_major(golden.out["targets"][..., 0])
    loss, gradients = jax.value_and_grad(partial(learning.loss_with, theirs))(learning.torch)
    same(loss, golden.out["loss"], "loss with the file's targets")
    for name, gradient in golden.grad.items():
        same(gradients[name], gradient, f"gradient of {name}")
    expected = brute_force_targets(learning, value, chosen.bonus)
    same(learning.targets(q), expected, "targets by definition")
    loss, metrics = learning.loss(learning.torch)
    same(loss, learning.loss_with(jnp.asarray(expected), learning.torch), "loss by definition")
    same(metrics["loss_opt"], golden.out["L_opt"], "L_opt")
    if not (golden.given["td_lambda"] > 0 and np.any(learning.batch.terminated)):
        learning.check_targets(q)
        same(metrics["loss_td"], golden.out["L_wtd"], "L_wtd")


def qtran_loss(golden):
    _, gru = spec_and_agent(golden)
    widths = files.qtran_sizes(files.below(golden.param, "mixer"))
    joint = qtran.Joint(golden.given["avail_actions"].shape[-1], **widths, inputs="features")
    parts = qtran.Parts(gru, joint, golden.meta["opt_loss"], golden.meta["nopt_min_loss"], False)
    batch, torch = files.batch(golden), {name: jnp.asarray(x) for name, x in golden.param.items()}

    def network(torch, prefix=""):
        return qtran.Network(
            files.gru_agent(files.below(torch, f"{prefix}agent")),
            files.qtran(files.below(torch, f"{prefix}mixer"), "features"),
        )

    online, target = network(torch), network(torch, "target_")
    q, features = gru.unroll(online.agent, batch.at)
    agree(q, golden.out["q"], "q")
    agree(features, golden.out["hidden"], "hidden")
    best = policies.greedy(q, batch.at.avail)
    agree(best, golden.out["argmax_actions"], "argmax_actions")
    q_joint, v = qtran.joint(parts, online, features[:-1], batch.action, transitions(batch))
    there = np.asarray(batch.valid).T[..., None]  # in padding, the file's one-hot actions are zeros
    agree(jnp.where(batch.valid, q_joint, 0.0)[..., None], np.where(there, golden.out["q_joint"], 0.0), "q_joint")
    agree(v[..., None], golden.out["v"], "v")
    at_best, _ = qtran.joint(parts, online, features[:-1], best[:-1], transitions(batch))
    agree(at_best[..., None], golden.out["q_joint_max"], "q_joint_max")
    y = qtran.targets(parts, hyper(golden), target, batch, best)
    agree(y, np.where(np.asarray(batch.valid).T, golden.out["targets"][..., 0], 0.0), "targets")

    def loss(torch):
        return qtran.loss(parts, hyper(golden), target, batch, jax.random.key(0), network(torch))

    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(torch)
    for ours, theirs in {"loss_td": "L_td", "loss_optimal": "L_opt", "loss_nonoptimal": "L_nopt"}.items():
        same(metrics[ours], golden.out[theirs], theirs)
    same(value, golden.out["loss"], "loss")
    for name, gradient in golden.grad.items():
        same(gradients[name], gradient, f"gradient of {name}")


def dmix_loss(golden):
    spec, gru = spec_and_agent(golden)
    mixer = qmix.make(spec, **files.dmix_sizes(files.below(golden.param, "mixer")), mask_dead=False)
    embedding = quantile_mixture.Embedding(*golden.param["agent.phi.weight"].shape[::-1])
    double_q = golden.meta["double_q"]
    parts = quantile_mixture.Parts(gru, mixer, embedding, 0, 0, double_q, False)
    batch, torch = files.batch(golden), {name: jnp.asarray(x) for name, x in golden.param.items()}
    u, target_u = (files.time_major(golden.given[name]) for name in ("taus", "target_taus"))

    def network(torch, prefix=""):
        ours = files.below(torch, f"{prefix}agent")
        phi = {"params": {"phi": files.linear(ours, "phi")}}
        return quantile_mixture.Network(files.gru_agent(ours), phi, files.dmix(files.below(torch, f"{prefix}mixer")))

    online, target = network(torch), network(torch, "target_")
    _, features = gru.unroll(online.agent, batch.at)
    z = quantile_mixture.quantiles(parts, online, features, u)
    agree(z, golden.out["z"], "z")
    z_tot = quantile_mixture.mixture(parts, online, z[:-1], features[:-1], batch.action, transitions(batch))
    agree(z_tot[:, :, None], golden.out["z_tot"], "z_tot")
    y, chosen = quantile_mixture.targets(parts, hyper(golden), target, batch, target_u, jnp.mean(z, axis=-1))
    agree(chosen[1:], golden.out["argmax_actions"], "argmax_actions")
    agree(y, np.where(np.asarray(batch.valid).T[..., None], golden.out["targets"][:, :, 0], 0.0), "targets")
    (value, _), gradients = jax.value_and_grad(
        lambda torch: quantile_mixture.loss_at(parts, hyper(golden), target, batch, u, target_u, network(torch)),
        has_aux=True,
    )(torch)
    same(value, golden.out["loss"], "loss")
    for name, gradient in golden.grad.items():
        same(gradients[name], gradient, f"gradient of {name}")
