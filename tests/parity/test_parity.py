"""Our modules and losses against the authors' PyTorch code, in float64: outputs and gradients, to 1e-9."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.algos import value_decomposition as vd
from meigm_jax.hyper import Hyper
from meigm_jax.mixers import qatten, qmix, qplex, vdn
from meigm_jax.modules import agent, opt, temperature
from meigm_jax.ops import policies
from meigm_jax.ops.targets import lambda_returns
from meigm_jax.types import MixInput, TimeStep
from tests.ops.forward_view import lambda_mixture
from tests.parity import golden as files

pytestmark = pytest.mark.parity

FOLDER = Path(os.environ.get("MEIGM_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
if not FILES:
    raise FileNotFoundError(f"no *.npz in {FOLDER} (MEIGM_GOLDEN_DIR)")


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_golden_file(path):
    case, *variants = path.stem.split("__")
    unwanted = [v for v in variants if "truncpad" in v or v.endswith("_leak")]
    if unwanted or case.endswith("_dead"):
        pytest.skip("not required: the reference leaks or broadcasts here, we do not")
    if case not in CASES:
        pytest.skip(f"not implemented: {case}")
    with jax.enable_x64(True):
        CASES[case](files.read(path))


def agree(ours, theirs, what=""):
    """Time-major ours [T, B, ...] against batch-major theirs [B, T, ...]."""
    same(np.swapaxes(np.asarray(ours), 0, 1), theirs, what)


def same(ours, theirs, what=""):
    ours = np.asarray(ours)
    assert ours.dtype == theirs.dtype or ours.dtype.kind != "f", f"{what}: {ours.dtype}"
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=what)


def check_gradients(scalar, golden, inputs):
    """`scalar(params, inputs)`, its value and its gradient in every parameter and in the inputs, by torch name."""
    given = {name: jnp.asarray(golden.given[name]) for name in inputs}
    value, (d_param, d_given) = jax.value_and_grad(scalar, argnums=(0, 1))(golden.param, given)
    same(value, golden.out["scalar"], "scalar")
    ours = d_param | d_given
    assert ours.keys() >= golden.grad.keys()
    for name, gradient in golden.grad.items():
        same(ours[name], gradient, f"gradient of {name}")


def agent_gru(golden):
    inputs, q = golden.given["inputs"], golden.out["q"]
    (*_, num_agents, size), num_actions = inputs.shape, q.shape[-1]
    spec = files.spec(num_agents, num_actions, size, 1)  # the file's inputs are one piece: all of it is observation
    gru = agent.make_gru(spec, golden.out["h"].shape[-1])

    def unroll(params, given):
        obs = jnp.swapaxes(given["inputs"], 0, 1)
        rows = obs.shape[:2]
        first = jnp.broadcast_to(jnp.arange(rows[0])[:, None] == 0, rows)
        nobody = jnp.full((*rows, num_agents), -1)
        avail = jnp.ones((*rows, num_agents, num_actions), bool)
        at = TimeStep(obs, jnp.zeros((*rows, 1)), avail, first, nobody)
        return gru.unroll(files.gru_agent(params, unused_inputs=num_actions + num_agents), at)

    found_q, hidden = unroll(golden.param, {"inputs": jnp.asarray(inputs)})
    agree(found_q, q, "q")
    agree(hidden, golden.out["h"], "h")
    check_gradients(lambda p, x: jnp.sum(unroll(p, x)[0] ** 2), golden, ["inputs"])


def mix_input(q, state):
    """What VDN and QMIX read; the rest is of no interest to them."""
    alive = jnp.ones(q.shape, bool)
    return MixInput(q, q, jnp.zeros(q.shape, int), state, alive, q[..., None])


def check_mixer(mixer, convert, golden):
    def mix(params, given):
        q = given["agent_qs"]
        state = given.get("states", jnp.zeros((*q.shape[:-1], 1)))
        return mixer.apply(convert(params), mix_input(q, state))

    inputs = [name for name in ("agent_qs", "states") if name in golden.given]
    found = mix(golden.param, {name: jnp.asarray(golden.given[name]) for name in inputs})
    same(found[..., None], golden.out["q_tot"], "q_tot")
    scalar = golden.out.get("scalar", np.sum(golden.out["q_tot"] ** 2))
    check_gradients(lambda p, x: jnp.sum(mix(p, x) ** 2), golden._replace(out={"scalar": scalar}), inputs)


def mixer_vdn(golden):
    num_agents = golden.given["agent_qs"].shape[-1]
    check_mixer(vdn.make(files.spec(num_agents, 2, 1, 1)), lambda params: {}, golden)


def mixer_qmix(golden):
    num_agents, state_dim = golden.given["agent_qs"].shape[-1], golden.given["states"].shape[-1]
    sizes = files.qmix_sizes(golden.param)
    mixer = qmix.make(files.spec(num_agents, 2, 1, state_dim), **sizes, mask_dead=False)
    check_mixer(mixer, files.qmix, golden)


def mixer_qplex(golden):
    given, out = golden.given, golden.out
    *_, num_agents, num_actions = given["q_all"].shape
    spec = files.spec(num_agents, num_actions, 1, given["states"].shape[-1])
    mixer = qplex.make(spec, **files.qplex_sizes(golden.param), weighted_head=golden.meta["weighted_head"])
    action, alive = jnp.asarray(given["actions"]), jnp.ones(given["agent_qs"].shape, bool)
    avail = jnp.asarray(given["avail_actions"]) > 0
    best = policies.take(jnp.asarray(given["q_all"]), policies.greedy(jnp.asarray(given["q_all"]), avail))
    same(best, given["max_q_i"], "max_q_i")

    def mix(params, x):
        q = MixInput(x["agent_qs"], x["max_q_i"], action, x["states"], alive, x["agent_qs"][..., None])
        return mixer.apply(files.qplex(params), q)

    inputs = ["agent_qs", "max_q_i", "states"]
    found = mix(golden.param, {name: jnp.asarray(given[name]) for name in inputs})
    same(found[..., None], out["q_tot"], "q_tot")
    check_gradients(lambda p, x: jnp.sum(mix(p, x) ** 2), golden, inputs)


def mixer_qatten(golden):
    num_agents, state_dim = golden.given["agent_qs"].shape[-1], golden.given["states"].shape[-1]
    embed_dim, unit_dim = golden.param["key_embedding_layers.0.weight"].shape
    weighted = golden.meta["type"] == "weighted"
    mixer = qatten.make(
        files.spec(num_agents, 2, 1, state_dim)._replace(unit_dim=unit_dim),
        num_heads=sum(name.startswith("key_embedding_layers") and name.endswith("weight") for name in golden.param),
        embed_dim=embed_dim,
        hypernet_dim=golden.param["query_embedding_layers.0.0.weight"].shape[0],
        value_dim=golden.param["constrant_value_layer.0.weight"].shape[0],
        weighted=weighted,
    )
    check_mixer(mixer, partial(files.qatten, weighted=weighted), golden)


def opt_spec(golden):
    *_, num_agents, num_actions = golden.given["q_all"].shape
    return files.spec(num_agents, num_actions, 1, golden.given["states"].shape[-1])


def on_chosen(transform, params, q, state, alive):
    """The OPT on one utility per agent."""
    return transform.apply(params, q[..., None], state, alive).squeeze(-1)


def opt_affine(golden):
    width = golden.param["hyper_w.0.weight"].shape[0]
    make = partial(opt.make_affine, opt_spec(golden), width)
    transform, masked = make(mask_dead=False), make(mask_dead=True)
    given = {name: jnp.asarray(golden.given[name]) for name in ("q_all", "q_chosen", "states")}
    alive = jnp.asarray(golden.given["dead_mask"] == 0)

    def both(params, x):
        tree = files.affine(params)
        everything = transform.apply(tree, x["q_all"], x["states"], alive)
        return everything, on_chosen(transform, tree, x["q_chosen"], x["states"], alive)

    everything, chosen = both(golden.param, given)
    same(everything, golden.out["opt_all"], "opt_all")
    same(chosen, golden.out["opt_chosen"], "opt_chosen")
    tree = files.affine(golden.param)
    dead = on_chosen(masked, tree, given["q_chosen"], given["states"], alive)
    same(dead, golden.out["opt_chosen_dead"], "opt_chosen_dead")
    same(on_chosen(transform, tree, 0 * chosen, given["states"], alive), golden.out["b"], "b")
    check_gradients(lambda p, x: sum(jnp.sum(y**2) for y in both(p, x)), golden, list(given))


def opt_two_layer(golden):
    spec = opt_spec(golden)
    hypernet_dim, size = golden.param["hyper_w3.0.weight"].shape[0], golden.param["hyper_b3.0.weight"].shape[0]
    g = opt.make_two_layer(spec, hypernet_dim, size // spec.num_agents, residual=True, mask_dead=False)
    f = opt.make_affine(spec, golden.param["hyper_w5.0.weight"].shape[0], mask_dead=False)
    given = {name: jnp.asarray(golden.given[name]) for name in ("q_all", "q_chosen", "states")}
    alive = jnp.ones(given["q_chosen"].shape, bool)

    def outputs(params, x):
        g_tree, f_tree = files.two_layer(params), files.affine(params, "hyper_w5", "hyper_b5")
        g_all = g.apply(g_tree, x["q_all"], x["states"], alive)
        f_all = f.apply(f_tree, x["q_all"], x["states"], alive)
        f_chosen = on_chosen(f, f_tree, x["q_chosen"], x["states"], alive)
        return {"g_all": g_all, "f_all": f_all, "f_chosen": f_chosen}

    found = outputs(golden.param, given)
    for name, x in found.items():
        same(x, golden.out[name], name)
    f_tree = files.affine(golden.param, "hyper_w5", "hyper_b5")
    same(f.apply(f_tree, found["g_all"], given["states"], alive), golden.out["f_of_g_all"], "f_of_g_all")
    q_tot = vdn.make(spec).apply({}, mix_input(given["q_chosen"], given["states"]))
    same(q_tot[..., None], golden.out["q_tot"], "q_tot")
    check_gradients(lambda p, x: sum(jnp.sum(y**2) for y in outputs(p, x).values()), golden, list(given))


def td_lambda(golden):
    given = {name: files.time_major(golden.given[name][..., 0]) for name in golden.given if name != "gamma"}
    bonus = given.get("entropy", jnp.zeros_like(given["target_qs"]))
    valid = given["mask"].astype(bool)
    targets = {name: x[..., 0].T for name, x in golden.out.items() if name.startswith("targets_lam")}
    assert len(targets) == len(golden.meta["td_lambda"])
    for name, theirs in targets.items():
        rounded = float(name.removeprefix("targets_lam").replace("p", "."))
        lam = min(golden.meta["td_lambda"], key=lambda value: abs(value - rounded))
        ours = lambda_returns(
            given["rewards"],
            given["target_qs"],
            bonus,
            given["terminated"].astype(bool),
            valid,
            golden.given["gamma"],
            lam,
        )
        same(ours, np.where(valid, theirs, 0.0), name)


class Learning:
    """A learner file as our parts, batch and networks."""

    def __init__(self, golden, soft):
        self.out, self.given, self.soft = golden.out, golden.given, soft
        self.batch = files.batch(golden)
        *_, num_agents, num_actions = golden.given["avail_actions"].shape
        obs_dim, state_dim = golden.given["obs"].shape[-1], golden.given["states"].shape[-1]
        spec = files.spec(num_agents, num_actions, obs_dim, state_dim)
        mixer_params = files.below(golden.param, "mixer")
        self.qplex = "V.0.weight" in mixer_params
        if self.qplex:
            mixer = qplex.make(spec, **files.qplex_sizes(mixer_params), weighted_head=True)
        else:
            mixer = qmix.make(spec, **files.qmix_sizes(mixer_params), mask_dead=False)
        self.opt_prefix = "opt." if self.qplex else "mixer."  # whose hyper_w and hyper_b are the OPT's
        affine = opt.make_identity(spec)
        if soft:
            width = golden.param[f"{self.opt_prefix}hyper_w.0.weight"].shape[0]
            affine = opt.make_affine(spec, width, mask_dead=False)
        self.parts = vd.Parts(
            agent.make_gru(spec, golden.param["agent.fc1.weight"].shape[0]),
            mixer,
            affine,
            temperature.make_fixed(spec),
            soft,
            sampled_entropy=True,
            bootstrap_on_timeout=False,
        )
        self.torch = {name: jnp.asarray(x) for name, x in golden.param.items()}
        self.target = self.network(self.torch, "target_")
        self.alpha = jnp.asarray(golden.given.get("alpha", 1.0))
        zeros = Hyper(*(jnp.zeros(()) for _ in Hyper._fields))
        self.hyper = zeros._replace(
            gamma=jnp.asarray(golden.given["gamma"]), td_lambda=jnp.asarray(golden.given["td_lambda"])
        )

    def network(self, torch, prefix=""):
        mixer_params = files.below(torch, f"{prefix}mixer")
        return vd.Network(
            files.gru_agent(files.below(torch, f"{prefix}agent")),
            files.qplex(mixer_params) if self.qplex else files.qmix(mixer_params),
            files.affine(files.below(torch, f"{prefix}{self.opt_prefix[:-1]}")) if self.soft else {},
            {},
        )

    def choose(self, q):
        """The stored next actions in place of fresh samples, or the greedy ones."""
        if not self.soft:
            return vd.choose_greedily(self.batch.at, q)
        pi = vd.local_policy(self.parts, self.target.opt, self.alpha, q, self.batch.at)
        picked = files.time_major(self.given["picked_actions"])
        return vd.Next(picked, -self.alpha * jnp.sum(pi.log_prob(picked), axis=-1))

    def loss(self, torch):
        online = self.network(torch)
        return vd.loss(self.parts, self.hyper, self.target, self.batch, self.choose, self.alpha, online)

    def targets(self, q):
        return vd.td_targets(self.parts, self.hyper, self.target, self.batch, self.choose(q))

    def values(self):
        """Utilities of all rows, their features, and Q_tot of the transitions; checked on the way."""
        online = self.network(self.torch)
        q, features = self.parts.agent.unroll(online.agent, self.batch.at)
        agree(q, self.out["q"], "q")
        rows = jax.tree.map(lambda x: x[:-1], self.batch.at)
        q_tot = vd.joint_value(self.parts, online, q[:-1], features[:-1], self.batch.action, rows)
        kept = jnp.where(self.batch.valid, q_tot, 0.0) if self.qplex else q_tot  # stored times the mask
        agree(kept[..., None], self.out["q_tot"], "q_tot")
        agree(policies.take(q[:-1], self.batch.action), self.out["q_chosen"], "q_chosen")
        return q, q_tot

    def check_target_values(self, chosen):
        target_q, features = self.parts.agent.unroll(self.target.agent, self.batch.at)
        agree(target_q, self.out["target_q"], "target_q")
        value = vd.joint_value(self.parts, self.target, target_q, features, chosen.action, self.batch.at)
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


def qmix_loss(golden):
    learning = Learning(golden, soft=False)
    q, _ = learning.values()
    chosen = learning.choose(q)
    agree(chosen.action, golden.out["argmax_actions"], "argmax_actions")
    learning.check_target_values(chosen)
    learning.check_targets(q)
    value, metrics = check_loss_gradients(learning, golden, list(golden.grad))
    same(value, golden.out["loss"], "loss")
    same(metrics["loss_td"], golden.out["L_td"], "L_td")


def me_qmix_loss(golden):
    """In full where the reference is right; where its targets leak (episodes end, lambda > 0), L_td by definition."""
    learning = Learning(golden, soft=True)
    q, q_tot = learning.values()
    check_policy(learning, q)
    chosen = learning.choose(q)
    value = learning.check_target_values(chosen)
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
    parts, batch, out = learning.parts, learning.batch, learning.out
    alive = policies.has_choice(batch.at.avail)
    agree(parts.opt.apply(learning.target.opt, q, batch.at.state, alive), out["opt_q"], "opt_q")
    pi = vd.local_policy(parts, learning.target.opt, learning.alpha, q, batch.at)
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


CASES = {"qplex_loss": qmix_loss, "me_qplex_loss_composed": me_qmix_loss} | {
    check.__name__: check
    for check in (
        agent_gru,
        mixer_vdn,
        mixer_qmix,
        mixer_qplex,
        mixer_qatten,
        opt_affine,
        opt_two_layer,
        td_lambda,
        qmix_loss,
        me_qmix_loss,
    )
}
