"""Golden files of the authors' PyTorch code, and their layers as parameter trees of this package.

Every converter takes torch's parameters, name -> array, and is differentiable: gradients with respect to the torch
parameters themselves come out, and compare with the file name by name.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from meigm_jax.types import EnvSpec, TimeStep, Trajectory


class Golden(NamedTuple):
    """One file: what its meta says, and its arrays by group, name -> array."""

    meta: dict[str, Any]
    param: dict[str, np.ndarray]
    given: dict[str, np.ndarray]  # inputs
    out: dict[str, np.ndarray]
    grad: dict[str, np.ndarray]


def read(path: Path) -> Golden:
    with np.load(path) as arrays:
        groups = {
            group: {key.removeprefix(f"{group}/"): arrays[key] for key in arrays if key.startswith(f"{group}/")}
            for group in ("param", "in", "out", "grad")
        }
        meta = json.loads(str(arrays["meta"]))
    return Golden(meta, groups["param"], groups["in"], groups["out"], groups["grad"])


def spec(num_agents: int, num_actions: int, obs_dim: int, state_dim: int) -> EnvSpec:
    return EnvSpec("golden", num_agents, num_actions, obs_dim, state_dim, 1, 1, ())


def below(params: dict, prefix: str) -> dict:
    """The parameters whose names start with `prefix` and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): x for name, x in params.items() if name.startswith(f"{prefix}.")}


def linear(params: dict, name: str) -> dict:
    return {"kernel": params[f"{name}.weight"].T, "bias": params[f"{name}.bias"]}


def hypernet(params: dict, name: str) -> dict:
    """Linear, ReLU, Linear: Sequential counts the activation."""
    return {"hidden": linear(params, f"{name}.0"), "out": linear(params, f"{name}.2")}


def gru_agent(params: dict, unused_inputs: int = 0) -> dict:
    """fc1, GRUCell, fc2. `unused_inputs`: columns of our input layer that the file's inputs do not have."""
    encode = linear(params, "fc1")
    nothing = jnp.zeros((unused_inputs, encode["kernel"].shape[1]))
    encode["kernel"] = jnp.concatenate([encode["kernel"], nothing])
    w_r, w_z, w_n = (w.T for w in jnp.split(params["rnn.weight_ih"], 3))
    u_r, u_z, u_n = (w.T for w in jnp.split(params["rnn.weight_hh"], 3))
    b_r, b_z, b_n = jnp.split(params["rnn.bias_ih"], 3)
    c_r, c_z, c_n = jnp.split(params["rnn.bias_hh"], 3)
    return {
        "params": {
            "encode": encode,
            "input_r": {"kernel": w_r, "bias": b_r + c_r},
            "input_z": {"kernel": w_z, "bias": b_z + c_z},
            "input_n": {"kernel": w_n, "bias": b_n},
            "hidden_r": u_r,
            "hidden_z": u_z,
            "hidden_n": u_n,
            "hidden_bias_n": c_n,
            "head": linear(params, "fc2"),
        }
    }


def qmix(params: dict) -> dict:
    return {
        "params": {
            "w1": hypernet(params, "hyper_w1"),
            "b1": linear(params, "hyper_b1.0"),
            "w2": hypernet(params, "hyper_w2"),
            "b2": hypernet(params, "hyper_b2"),
        }
    }


def qmix_sizes(params: dict) -> dict[str, int]:
    """The options of our mixer that give the file's widths."""
    return {
        "embed_dim": params["hyper_b1.0.weight"].shape[0],
        "hypernet_dim": params["hyper_w1.0.weight"].shape[0],
        "value_dim": params["hyper_b2.0.weight"].shape[0],
    }


def dmix(params: dict) -> dict:
    """QMIX's mixer under dfac's names; its mixing weights may come from a single layer."""

    def weights(name: str) -> dict:
        return hypernet(params, name) if f"{name}.0.weight" in params else {"out": linear(params, name)}

    return {
        "params": {
            "w1": weights("hyper_w_1"),
            "b1": linear(params, "hyper_b_1"),
            "w2": weights("hyper_w_final"),
            "b2": hypernet(params, "V"),
        }
    }


def dmix_sizes(params: dict) -> dict[str, int]:
    """The options of our mixer that give the file's widths."""
    layers = 2 if "hyper_w_1.0.weight" in params else 1
    return {
        "embed_dim": params["hyper_b_1.weight"].shape[0],
        "hypernet_dim": params["hyper_w_1.0.weight"].shape[0] if layers == 2 else 1,
        "value_dim": params["V.0.weight"].shape[0],
        "hypernet_layers": layers,
    }


def mlp(params: dict, name: str) -> dict:
    """Linear layers with ReLU between them: Sequential counts the activations."""
    numbers = sorted(int(key.split(".")[1]) for key in params if key.startswith(f"{name}.") and key.endswith("weight"))
    *hidden, last = (linear(params, f"{name}.{number}") for number in numbers)
    return {f"hidden_{n}": layer for n, layer in enumerate(hidden)} | {"out": last}


def qtran(params: dict, inputs: str) -> dict:
    tree = {"q": mlp(params, "Q"), "v": mlp(params, "V")}
    return {"params": tree | ({"encode": mlp(params, "action_encoding")} if inputs == "features" else {})}


def qtran_sizes(params: dict) -> dict[str, int]:
    """The options of our joint value that give the file's widths."""
    return {"embed_dim": params["Q.0.weight"].shape[0], "layers": len(mlp(params, "Q"))}


def kernels(params: dict, name: str) -> dict:
    """QPLEX's extractors <name>.<k>[.<layer>], stacked: kernel_<n> [K, in, out] and bias_<n> [K, out]."""
    layers: dict[str, list] = {}
    for key in sorted(key for key in params if key.startswith(f"{name}.") and key.endswith("weight")):
        number, *layer, _ = key.removeprefix(f"{name}.").split(".")
        layers.setdefault(layer[0] if layer else "0", []).append((int(number), key.removesuffix(".weight")))
    stacked = {}
    for n, layer in enumerate(sorted(layers, key=int)):
        found = [linear(params, key) for _, key in sorted(layers[layer])]
        stacked[f"kernel_{n}"] = jnp.stack([each["kernel"] for each in found])
        stacked[f"bias_{n}"] = jnp.stack([each["bias"] for each in found])
    return stacked


def qplex(params: dict) -> dict:
    names = {"key": "key_extractors", "agents": "agents_extractors", "actions": "action_extractors"}
    tree = {ours: kernels(params, f"si_weight.{theirs}") for ours, theirs in names.items()}
    return {"params": tree | {"w": hypernet(params, "hyper_w_final"), "b": hypernet(params, "V")}}


def qplex_sizes(params: dict) -> dict[str, int]:
    """The options of our mixer that give the file's widths."""
    tree = qplex(params)["params"]["key"]
    return {
        "hypernet_dim": params["hyper_w_final.0.weight"].shape[0],
        "num_kernels": tree["kernel_0"].shape[0],
        "kernel_dim": tree["kernel_0"].shape[2],
        "layers": len(tree) // 2,
    }


def qatten(params: dict, weighted: bool) -> dict:
    heads = len([name for name in params if name.startswith("key_embedding_layers.") and name.endswith("weight")])
    tree = {"value": hypernet(params, "constrant_value_layer")}
    for head in range(heads):
        tree[f"query_{head}"] = hypernet(params, f"query_embedding_layers.{head}")
        tree[f"key_{head}"] = linear(params, f"key_embedding_layers.{head}")
    if weighted:
        tree["head"] = hypernet(params, "head_embedding_layer")
    return {"params": tree}


def affine(params: dict, w: str = "hyper_w", b: str = "hyper_b") -> dict:
    return {"params": {"w": hypernet(params, w), "b": hypernet(params, b)}}


def two_layer(params: dict) -> dict:
    return {
        "params": {
            "w": hypernet(params, "hyper_w3"),
            "c": linear(params, "hyper_b3.0"),
            "u": hypernet(params, "hyper_w4"),
            "b": hypernet(params, "hyper_b4"),
        }
    }


def time_major(x: np.ndarray) -> jnp.ndarray:
    """[B, T, ...] to [T, B, ...]."""
    return jnp.asarray(np.swapaxes(x, 0, 1))


def step_mask(filled: np.ndarray, terminated: np.ndarray) -> np.ndarray:
    """Real transitions [B, T] from filled and terminated [B, T + 1]: up to and including the terminating one."""
    mask = filled[:, :-1].copy()
    mask[:, 1:] *= 1 - terminated[:, :-2]
    return mask.astype(bool)


def batch(golden: Golden) -> Trajectory:
    """A learner batch [B, L, ...] as our trajectory: L rows, L - 1 transitions, time-major."""
    given = golden.given
    filled, terminated = given["filled"][..., 0], given["terminated"][..., 0]
    obs_dim, num_actions = given["obs"].shape[-1], given["avail_actions"].shape[-1]
    before = given["agent_inputs"][..., obs_dim : obs_dim + num_actions]
    last_action = np.where(before.sum(-1) > 0, before.argmax(-1), -1)
    first = np.zeros(filled.shape, bool)
    first[:, 0] = True
    at = TimeStep(
        obs=time_major(given["obs"]),
        state=time_major(given["states"]),
        avail=time_major(given["avail_actions"]).astype(bool),
        first=time_major(first),
        last_action=time_major(last_action),
    )
    valid = time_major(step_mask(filled, terminated))
    return Trajectory(
        at=at,
        action=time_major(given["actions"])[:-1],
        reward=time_major(given["rewards"][..., 0])[:-1],
        terminated=time_major(terminated)[:-1].astype(bool),
        truncated=jnp.zeros_like(valid),
        valid=valid,
    )
