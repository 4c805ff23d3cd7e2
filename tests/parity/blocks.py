"""Golden files of agents, mixers, transformations and targets."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from meigm_jax.algos import qtran, quantile_mixture
from meigm_jax.mixers import qatten, qmix, qplex, vdn
from meigm_jax.modules import agent, opt
from meigm_jax.modules.layers import run
from meigm_jax.ops import policies
from meigm_jax.ops.targets import lambda_returns
from meigm_jax.types import MixInput, TimeStep
from tests.parity import golden as files
from tests.parity.compare import agree, check_gradients, same


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


def mixer_qtran(golden):
    """Q_jt and V of the joint value network; `scalar` is the sum of both squares."""
    given, inputs = golden.given, {"qtran_paper": "features", "coma_critic": "actions"}[golden.meta["qtran_arch"]]
    joint = qtran.Joint(given["actions_onehot"].shape[-1], **files.qtran_sizes(golden.param), inputs=inputs)
    action = jnp.asarray(given["actions"])

    def values(params, x):
        return run(joint, files.qtran(params, inputs), x["states"], x["hidden_states"], action)

    q_joint, v = values(golden.param, {name: jnp.asarray(given[name]) for name in ("states", "hidden_states")})
    same(q_joint[..., None], golden.out["q_joint"], "q_joint")
    same(v[..., None], golden.out["v"], "v")
    check_gradients(lambda p, x: sum(jnp.sum(jnp.square(y)) for y in values(p, x)), golden, ["states", "hidden_states"])


def mixer_dmix(golden):
    """The mixture of quantiles, as if every agent had one action."""
    given = golden.given
    *rows, num_agents, _ = given["agent_zs"].shape
    spec = files.spec(num_agents, 1, 1, given["states"].shape[-1])
    mixer = qmix.make(spec, **files.dmix_sizes(golden.param), mask_dead=False)
    parts = quantile_mixture.Parts(None, mixer, None, 0, 0, False, False)
    action = jnp.zeros((*rows, num_agents), int)
    avail, none = jnp.ones((*rows, num_agents, 1), bool), jnp.zeros(rows)

    def mix(params, x):
        network = quantile_mixture.Network({}, {}, files.dmix(params))
        at = TimeStep(none, x["states"], avail, none, none)
        return quantile_mixture.mixture(parts, network, x["agent_zs"][..., None, :], none, action, at)

    z_tot = mix(golden.param, {name: jnp.asarray(x) for name, x in given.items()})
    same(z_tot[..., None, :], golden.out["z_tot"], "z_tot")
    same(jnp.mean(z_tot, axis=-1, keepdims=True), golden.out["q_tot"], "q_tot: shapes have mean zero")
    check_gradients(lambda p, x: jnp.sum(jnp.square(mix(p, x))), golden, ["agent_zs", "states"])


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
