"""One measurement in a process of its own, so that its peak memory and compile time are its own.

    python experiments/benchmark_measure.py '{"kind": "env", "system": "ours", "env": "smax_5v5", ...}'

`benchmark.py` starts these. Compiled, they say "ready" and wait for a line on stdin (or its end), so that many can
compile at once and be timed one after another. The last line on stdout is the result as JSON: seconds, bytes, flops.
The peer is JaxMARL's own baselines/QLearning/qmix_rnn.py, imported from a checkout that the unit names; its
environments are those of the installed wheel.
"""

import importlib.util
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax import envs
from meigm_jax.config import Config
from meigm_jax.engine import train_step
from meigm_jax.envs.quiet import quiet
from meigm_jax.runs import cost
from meigm_jax.runs.devices import divide_cpu
from meigm_jax.runs.machine import CompileClock, peak_memory
from meigm_jax.runs.trainer import Trainer, make_trainer, member_hypers, member_seeds
from meigm_jax.train import configure
from meigm_jax.types import Array

Unit = dict[str, Any]
Found = dict[str, float]
HIDDEN, MIXER, HYPERNET = 64, 32, 64  # widths of the GRU agent, the mixer and the mixer's hypernetworks
NEVER = 2**31 - 1  # env steps after which the peer starts to learn
SHORT = 4  # iterations of the peer's program that tells what its start costs
SQUARE = 4096  # width of the products that show what the machine can do


def main() -> None:
    unit = json.loads(sys.argv[1])
    kinds = {"device": device, "env": env_seconds, "train": train_seconds, "run": whole_run, "facts": facts}
    print(json.dumps((kinds | {"products": products})[unit["kind"]](unit)))


def device(unit: Unit) -> dict[str, Any]:
    """What everything is measured on."""
    kind, backend = jax.devices()[0].device_kind, jax.default_backend()
    name = f"{processor()}, {os.cpu_count()} cores" if backend == "cpu" else kind
    return {"name": name, "platform": backend, "jax": jax.__version__}


def processor() -> str:
    """The CPU's name; 'CPU' where the system doesn't tell."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return short_name(found[1] if found else platform.processor()) or "CPU"


def short_name(model: str) -> str:
    """What tells processors apart: 'Intel(R) Xeon(R) Processor @ 2.10GHz' -> 'Intel Xeon'."""
    return " ".join(re.sub(r"\((R|TM|r|tm)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", model).split())


def wait_for_turn() -> None:
    """Everything is compiled; what follows is timed, and nobody else is."""
    print("ready", flush=True)
    sys.stdin.readline()


def clock(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Seconds of a call, and what it returns."""
    start = time.perf_counter()
    found = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, found


# The environment alone: uniformly random available actions, ended episodes go on in a fresh state.


class Game(NamedTuple):
    """An environment, unbatched, as `play` runs it."""

    reset: Callable[[Array], tuple[Any, Any]]  # key -> (state, what an agent reads)
    # what `draw` gives, state, i32[N] -> (state, what an agent reads, further results)
    step: Callable[[Any, Any, Array], tuple[Any, Any, Any]]
    avail: Callable[[Any, Any], Array]  # state, what an agent reads -> bool[N, A]
    ended: Callable[[Any], Array]  # further results -> bool[]
    pool: int  # start states for ended episodes; 0: `step` resets by itself
    draw: Callable[[Array], Any] = lambda key: key  # key -> the random numbers of a step


def env_seconds(unit: Unit) -> Found:
    """Seconds in which `num_envs` environments take `length` steps each, with the resets that this needs."""
    pool = pool_size(unit["env"], unit["length"])
    game = ours(unit["env"], pool) if unit["system"] == "ours" else jaxmarl_game(unit["env"], unit["system"], pool)
    program, keys = playing(game, unit["length"]), jax.random.split(jax.random.key(0), unit["num_envs"])
    clock(program, keys)  # compiles
    wait_for_turn()
    return {"seconds": float(np.median([clock(program, keys)[0] for _ in range(unit["rounds"])]))}


def ours(name: str, pool: int) -> Game:
    env = envs.make(name)

    def step(noise: Any, state: Any, action: Array) -> tuple[Any, Any, Any]:
        state, at, reward, terminated, truncated, info = env.step(noise, state, action)
        return state, at, (terminated | truncated, reward, info)

    return Game(env.reset, step, lambda state, at: at.avail, lambda results: results[0], pool, env.draw)


def jaxmarl_game(name: str, method: str, pool: int) -> Game:
    """JaxMARL's own map of ours: its `step`, which makes a fresh state every time, or `step_env` with a pool."""
    with quiet():
        from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario
    return jaxmarl_smax(HeuristicEnemySMAX(scenario=map_name_to_scenario(jaxmarl_map(name))), method, pool)


def jaxmarl_smax(raw: Any, method: str, pool: int) -> Game:
    """JaxMARL's environment `raw`, a HeuristicEnemySMAX."""
    advance = {"step": raw.step, "step_env": raw.step_env}[method]

    def reset(key: Array) -> tuple[Any, Any]:
        return raw.reset(key)[::-1]

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Any]:
        obs, state, rewards, dones, _ = advance(key, state, dict(zip(raw.agents, action, strict=True)))
        return state, obs, (dones["__all__"], rewards, dones)

    def avail(state: Any, obs: Any) -> Array:
        found = raw.get_avail_actions(state)
        return jnp.stack([found[agent] for agent in raw.agents]) == 1

    return Game(reset, step, avail, lambda results: results[0], pool if method == "step_env" else 0)


def jaxmarl_map(name: str) -> str:
    """JaxMARL's name of one of our SMAX maps: 'smax_5v5' -> 'smacv2_5_units'."""
    from meigm_jax.envs.smax import SMACV2_MAPS  # imports JaxMARL, which starts JAX: the CPU could not be divided then

    plain = name.removeprefix("smax_")
    return SMACV2_MAPS.get(plain, plain)


def pool_size(name: str, length: int) -> int:
    """As many start states as our engine keeps: enough for the shortest episodes."""
    return 1 + length // (envs.make(name).spec.min_episode_length + 1)


def playing(game: Game, length: int) -> Callable[[Array], Any]:
    """The program that plays as many environments as it gets keys."""
    return jax.jit(jax.vmap(partial(play, game, length)))


def play(game: Game, length: int, key: Array) -> tuple[Array, Array]:
    """`length` steps of one environment: a number that depends on all that they return, and how many episodes ended."""
    k_reset, k_act, k_steps = jax.random.split(key, 3)
    pool = jax.vmap(game.reset)(jax.random.split(k_reset, max(game.pool, 1)))

    def state_of(episode: Array) -> Any:
        return jax.tree.map(lambda x: x[jnp.minimum(episode, max(game.pool, 1) - 1)], pool)

    def advance(carry: tuple[Any, Array], random: tuple[Array, Any]) -> tuple[tuple[Any, Array], Array]:
        (before, episode), (preference, noise) = carry, random
        action = jnp.argmax(jnp.where(game.avail(*before), preference, -jnp.inf), axis=-1)
        state, at, results = game.step(noise, before[0], action)
        ended = game.ended(results)
        used = sum(jnp.sum(jnp.asarray(x, jnp.float32)) for x in jax.tree.leaves((at, results)))
        after, episode = (state, at), episode + ended
        if game.pool:
            after = jax.tree.map(lambda x, y: jnp.where(ended, x, y), state_of(episode), after)
        # JaxMARL's states start with weakly typed numbers, and get other types after a step.
        return (jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), after, before), episode), jnp.asarray(used)

    start = state_of(jnp.int32(0))
    # Random numbers of all steps at once, as our engine draws them: one by one they take longer than our steps.
    preferences = jax.random.uniform(k_act, (length, *jax.eval_shape(game.avail, *start).shape))
    noise = jax.vmap(game.draw)(jax.random.split(k_steps, length))
    (_, episodes), used = jax.lax.scan(advance, (start, jnp.int32(0)), (preferences, noise))
    return used.sum(), episodes


# Training. A unit says how many iterations; before `warmup` of them are done, neither trainer learns.


def train_seconds(unit: Unit) -> Found:
    """Seconds per iteration that only collects, per iteration with so many gradient steps, and per gradient step.

    All of them for all seeds together. The gradient step is the difference of iterations with all and with none.
    """
    found = (peer_seconds if unit["system"] == "jaxmarl" else our_seconds)(unit)
    if unit["gradient_steps"]:
        most = max(unit["gradient_steps"])
        found["gradient_step"] = (found[f"iteration_{most}"] - found["rollout"]) / most
    return found


def warmup(unit: Unit) -> int:
    """Iterations before the first that learns: the peer waits for `batch_size` of them, whatever their size."""
    return unit["batch_size"] - 1 if unit["gradient_steps"] else unit["iterations"]


def our_seconds(unit: Unit) -> Found:
    only_collects, learns, found = warmup(unit), unit["iterations"], {}
    begun = {steps: begin(unit, steps) for steps in unit["gradient_steps"] or [1]}
    wait_for_turn()
    for steps, (trainer, state) in begun.items():
        rollouts, iterations = [], []
        for _ in range(unit["rounds"]):
            seconds, (state, metrics) = clock(trainer.run, state, 0, only_collects)
            rollouts.append(seconds / only_collects)
            check_learnt(metrics, only_collects, 0)
            if unit["gradient_steps"]:
                seconds, (state, metrics) = clock(trainer.run, state, only_collects, learns)
                iterations.append(seconds / learns)
                check_learnt(metrics, learns, learns)
        found.setdefault("rollout", float(np.median(rollouts)))
        if iterations:
            found[f"iteration_{steps}"] = float(np.median(iterations))
    return found


def check_learnt(metrics: Any, iterations: int, learning: int) -> None:
    """Raises RuntimeError unless so many of the iterations took gradient steps."""
    loss = np.asarray(metrics["loss_td"])[:iterations]
    if (found := int(np.isfinite(loss).all(axis=1).sum())) != learning or np.isfinite(loss).any() != bool(learning):
        raise RuntimeError(f"{found} of {iterations} iterations have learnt, not {learning}")


def begin(unit: Unit, steps: int) -> tuple[Trainer, Any]:
    """A trainer with its program compiled, and fresh members."""
    config = our_config(unit, steps)
    trainer = make_trainer(config, warmup(unit) + unit["iterations"])
    state = trainer.init(member_seeds(config), member_hypers(config))
    return trainer, trainer.run(state, 0, 0)[0]  # compiles


def our_config(unit: Unit, steps: int) -> Config:
    sizes = {
        "num_envs": unit["num_envs"],
        "chunk_length": unit["length"],
        "updates_per_chunk": steps,
        "batch_size": unit["batch_size"],
        "warmup_sequences": (warmup(unit) + 1) * unit["num_envs"],
    }
    parts = {"agent.name": "gru", "agent.hidden_dim": HIDDEN, "mixer.embed_dim": MIXER, "mixer.hypernet_dim": HYPERNET}
    algo = unit["system"].removesuffix("_stored").removesuffix("_whole")
    arguments = [f"+env={unit['env']}", f"algo={algo}", f"seeds={unit['seeds']}"]
    if unit["seeds"] == 1:
        arguments += [f"devices={unit.get('devices', 1)}"]
    if unit["system"].endswith("_stored"):
        arguments += ["replay.observations=stored"]
    arguments += [f"train.{key}={value}" for key, value in sizes.items()]
    arguments += [f"algo.{key}={value}" for key, value in parts.items()]
    config = configure(*arguments, f"replay.capacity={unit['capacity']}")
    divide_cpu([config])
    return config


class Peer(NamedTuple):
    """The peer's whole training as one compiled program."""

    program: Any  # keys, env steps after which it learns -> what its train function returns
    keys: Array
    gradient_steps: int  # that it takes when it learns
    compile: float  # seconds

    def seconds(self, learns: bool) -> float:
        """Seconds of a whole training. Raises RuntimeError unless it has learnt, or not, as it should."""
        seconds, out = clock(self.program, self.keys, jnp.int32(0 if learns else NEVER))
        taken, wanted = np.asarray(out["runner_state"][0].grad_steps), self.gradient_steps if learns else 0
        if (taken != wanted).any():
            raise RuntimeError(f"the peer took {taken} gradient steps, not {wanted}")
        return seconds


def peer_seconds(unit: Unit) -> Found:
    """By differences: of trainings of two lengths, and of trainings that learn and that do not."""
    counts, learns = unit["gradient_steps"] or [1], unit["iterations"]
    updates = warmup(unit) + (learns if unit["gradient_steps"] else 0)
    shorter = min(SHORT, updates // 2)
    short, trainers = peer(unit, shorter, 1), {steps: peer(unit, updates, steps) for steps in counts}
    rollouts, learning = [], {steps: [] for steps in unit["gradient_steps"]}
    wait_for_turn()
    for _ in range(unit["rounds"]):
        start, collecting = short.seconds(False), trainers[counts[0]].seconds(False)
        rollouts.append((collecting - start) / (updates - shorter))
        for steps, seconds in learning.items():
            seconds.append((trainers[steps].seconds(True) - collecting) / learns)
    rollout = float(np.median(rollouts))
    return {"rollout": rollout} | {f"iteration_{n}": rollout + float(np.median(x)) for n, x in learning.items()}


def peer(unit: Unit, updates: int, steps: int) -> Peer:
    keys = jax.random.split(jax.random.PRNGKey(0), unit["seeds"])
    program = jax.jit(jax.vmap(peer_train(unit, updates, steps), in_axes=(0, None)))
    start = time.perf_counter()
    compiled = program.lower(keys, jnp.int32(0)).compile()
    learning = max(updates - warmup(unit), 0)
    return Peer(compiled, keys, learning * steps, time.perf_counter() - start)


def peer_train(unit: Unit, updates: int, steps: int) -> Callable[[Array, Array], Any]:
    """The peer's train function of a key; when it starts to learn is an argument, so that one program does both."""
    from omegaconf import OmegaConf

    folder = Path(unit["jaxmarl"]) / "baselines" / "QLearning"
    module = imported(folder / "qmix_rnn.py")
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config" / "alg" / "ql_rnn_smax.yaml"))
    config |= {
        "MAP_NAME": jaxmarl_map(unit["env"]),
        "NUM_ENVS": unit["num_envs"],
        "NUM_STEPS": unit["length"],
        "TOTAL_TIMESTEPS": updates * unit["num_envs"] * unit["length"],
        "NUM_EPOCHS": steps,
        "BUFFER_SIZE": unit["capacity"],
        "BUFFER_BATCH_SIZE": unit["batch_size"] if unit["gradient_steps"] else 1,
        "HIDDEN_SIZE": HIDDEN,
        "MIXER_EMBEDDING_DIM": MIXER,
        "MIXER_HYPERNET_HIDDEN_DIM": HYPERNET,
        "TEST_DURING_TRAINING": False,
        "WANDB_MODE": "disabled",
    }
    env, _ = module.env_from_config(config)

    def train(key: Array, learning_starts: Array) -> Any:
        return module.make_train(config | {"LEARNING_STARTS": learning_starts}, env)(key)

    return train


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with quiet():
        spec.loader.exec_module(module)
    return module


def whole_run(unit: Unit) -> Found:
    """Seconds to trace and compile a training, and the process's peak memory after it has run once, in bytes."""
    [steps] = unit["gradient_steps"]
    if unit["system"] == "jaxmarl":
        trainer = peer(unit, warmup(unit) + unit["iterations"], steps)
        wait_for_turn()
        trainer.seconds(True)
        seconds = trainer.compile
    else:
        config = our_config(unit, steps)
        trainer = make_trainer(config, warmup(unit) + unit["iterations"])
        with CompileClock():  # as training does: it gives memory back
            start = time.perf_counter()
            program = trainer.init.lower(member_seeds(config), member_hypers(config)).compile()
            seconds = time.perf_counter() - start
            state = program(member_seeds(config), member_hypers(config))
            more, (state, _) = clock(trainer.run, state, 0, 0)  # no iteration: all of it is compilation
        seconds += more
        wait_for_turn()
        jax.block_until_ready(trainer.run(state, 0, warmup(unit) + unit["iterations"]))
    return {"compile": seconds, "peak_memory": peak_memory()}


def facts(unit: Unit) -> Found:
    """Bytes of replay per transition, and flops of a gradient step's matrix products; nothing is compiled."""
    more, fewer = (products_of(unit, steps) for steps in (2, 1))
    transitions = unit["capacity"] * unit["length"]
    if unit["system"] == "jaxmarl":
        out = jax.eval_shape(peer_train(unit, 1, 1), jax.random.PRNGKey(0), jnp.int32(0))
        experience = jax.tree.leaves(out["runner_state"][1].experience)
        replay = sum(leaf.size * leaf.dtype.itemsize for leaf in experience)
    else:
        replay = make_trainer(our_config(unit, 1), 1).replay_bytes
    return {"replay": replay / transitions, "flops": more - fewer}


def products_of(unit: Unit, steps: int) -> float:
    """Flops of all matrix products of an iteration with so many gradient steps."""
    if unit["system"] == "jaxmarl":
        return cost.work_of(peer_train(unit, 1, steps), jax.random.PRNGKey(0), jnp.int32(0)).flops
    config = our_config(unit, steps)
    trainer = make_trainer(config, 1)
    state = jax.eval_shape(trainer.init, member_seeds(config), member_hypers(config))
    member = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
    step = partial(train_step.train_step, trainer.env, trainer.algorithm, trainer.sizes)
    return unit["seeds"] * cost.work_of(step, member, jnp.int32(0)).flops


def products(unit: Unit) -> Found:
    """Flops per second of large matrix products, and of the narrow ones of which agents of this width consist."""
    x, product, best = jnp.ones((SQUARE, SQUARE)), jax.jit(jnp.matmul), math.inf
    clock(product, x, x)
    wait_for_turn()
    for _ in range(unit["rounds"]):
        best = min(best, clock(product, x, x)[0])
    return {"large": 2.0 * SQUARE**3 / best, "narrow": cost.narrow_flops()}


if __name__ == "__main__":
    main()
