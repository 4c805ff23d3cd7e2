"""From a configuration to compiled functions: the one place where environment, algorithm and engine meet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from meigm_jax import envs
from meigm_jax.algos import RULES
from meigm_jax.config import REGISTRIES, Config, PartConfig, check_chunk, members, num_members
from meigm_jax.engine import evaluation, replay, train_step
from meigm_jax.engine.train_step import Sizes, TrainState
from meigm_jax.envs.training import for_training
from meigm_jax.registry import ConfigError, lookup
from meigm_jax.runs.devices import mesh_of, shared
from meigm_jax.types import Algorithm, Array, Env, EnvSpec, Hyper, Learner, Metrics


class Trainer(NamedTuple):
    """The compiled functions of a run; everything they take and give has the leading member axis S.

    On several devices each of them holds its own members, or the devices that split a member all of it.
    """

    env: Env  # as training sees it
    algorithm: Algorithm
    sizes: Sizes
    replay_bytes: int  # of all members together
    init: Callable[[Array, Hyper], TrainState]  # seeds i32[S], f32[S] hypers
    # state (donated), first iteration, number of iterations <= max_iterations -> state, metrics f32[max_iterations, S]
    # (rows past the number are NaN, as is what an iteration did not compute)
    run: Callable[[TrainState, int, int], tuple[TrainState, Metrics]]
    # learner, member keys, env steps, policy, episodes= -> outcomes f32[S, episodes]
    evaluate: Callable[..., Metrics]


def make_trainer(config: Config, max_iterations: int) -> Trainer:
    """Build environment and algorithm and jit their functions; compiles at the first call of each.

    Raises ConfigError when the chunk is shorter than an episode can be, or the devices don't divide the seeds.
    """
    env, mesh = make_env(config), mesh_of(config)
    env, algorithm = traced_once(env, make_algorithm(config, env.spec))
    sizes = make_sizes(config, recomputes(config, env))
    return Trainer(
        env,
        algorithm,
        sizes,
        replay_bytes=replay_bytes(config, env),
        init=compiled(shared(jax.vmap(partial(train_step.init, env, algorithm, sizes)), mesh, (0, 0), 0)),
        run=_make_run(env, algorithm, sizes, config.env.reward_scale, max_iterations, mesh),
        evaluate=_make_evaluate(env, algorithm, config.evaluation.num_envs, config.env.reward_scale, mesh),
    )


def replay_bytes(config: Config, env: Env) -> int:
    """Bytes of all members' replays together, without making one."""
    sizes = make_sizes(config, recomputes(config, env))
    return num_members(config) * replay.nbytes(env, sizes.capacity, sizes.chunk_length, sizes.dtype)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit`. On the CPU with LLVM's second level: compiled a quarter faster than with its third, and as fast.

    With vectors as wide as it has, where XLA would use half of AVX-512's and collect a fifth slower; and in the order
    that needs least memory, which is a few percent faster than the one that lets most operations run at once.
    """
    cpu = {
        "xla_backend_optimization_level": 2,
        "xla_cpu_prefer_vector_width": 512,
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }
    return jax.jit(function, compiler_options=cpu if jax.default_backend() == "cpu" else None, **options)


def make_env(config: Config) -> Env:
    """The environment as training sees it. Raises ConfigError when the chunk is shorter than an episode can be."""
    env = for_training(envs.make(config.env.name, **config.env.options), config.env.reward_scale)
    check_chunk(config, env.spec.episode_limit)
    return env


def make_algorithm(config: Config, spec: EnvSpec) -> Algorithm:
    """The learning rule of `config.algo` with its parts, in the precision that the run has."""
    algo = config.algo

    def part(kind: str, chosen: PartConfig):
        return lookup(REGISTRIES[f"algo.{kind}"], chosen.name, kind).load()(spec, **chosen.options)

    rule = RULES[algo.rule.name]
    parts = {kind: part(kind, getattr(algo, kind)) for kind in ("agent", *rule.parts)}
    made = rule.load()(spec, **parts, bootstrap_on_timeout=config.env.bootstrap_on_timeout, **algo.rule.options)
    return with_precision(made, config.train.precision)


def traced_once(env: Env, algorithm: Algorithm) -> tuple[Env, Algorithm]:
    """Both with what is large remembered once traced: the engine's loops and branches trace their bodies repeatedly."""

    def once(function: Callable[..., Any] | None, **options: Any) -> Any:
        return None if function is None else jax.jit(function, inline=True, **options)

    env = env._replace(**{name: once(getattr(env, name)) for name in ("reset", "step", "draw", "compact", "expand")})
    return env, algorithm._replace(update=once(algorithm.update), act=once(algorithm.act, static_argnames="policy"))


def with_precision(algorithm: Algorithm, precision: str | None) -> Algorithm:
    """Its matrix products at this precision; parameters and sums stay float32. None: the device's default."""
    if precision is None:
        return algorithm
    wanted = {"float32": "float32", "bfloat16": "BF16_BF16_F32"}[precision]

    def precisely(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def within(*args: Any, **options: Any) -> Any:
            with jax.default_matmul_precision(wanted):
                return function(*args, **options)

        return within

    return algorithm._replace(update=precisely(algorithm.update), act=precisely(algorithm.act))


def recomputes(config: Config, env: Env) -> bool:
    """Whether the replay recomputes observations. Raises ConfigError when it shall and the environment can't."""
    wanted = config.replay.observations
    if wanted == "recomputed" and env.compact is None:
        raise ConfigError(
            f"replay.observations: {config.env.name} cannot recompute its observations; choose stored, or null"
        )
    return wanted != "stored" and env.compact is not None


def make_sizes(config: Config, recomputed: bool) -> Sizes:
    """The engine's static sizes."""
    train = config.train
    return Sizes(
        num_envs=train.num_envs,
        chunk_length=train.chunk_length,
        updates_per_chunk=train.updates_per_chunk,
        batch_size=train.batch_size,
        target_update_interval=train.target_update_interval,
        warmup_sequences=train.warmup_sequences,
        capacity=config.replay.capacity,
        dtype=None if recomputed else jnp.dtype(config.replay.dtype),
        return_weight=config.replay.return_weight,
        # Batched products over members are slow on the CPU unless networks are tiny, and a member gets other bits.
        in_turn=jax.default_backend() == "cpu" if train.in_turn is None else train.in_turn,
    )


def member_seeds(config: Config) -> Array:
    """i32[S]: seed .. seed + seeds - 1, once for every point of the grid."""
    return jnp.array([member.seed for member in members(config)], jnp.int32)


def member_hypers(config: Config) -> Hyper:
    """f32[S] each: what is swept from the member's point of the grid, the rest from `config.hyper`."""
    own = [{**config.hyper, **member.hyper} for member in members(config)]
    return Hyper(**{name: np.array([hyper[name] for hyper in own], np.float32) for name in Hyper._fields})


def _make_run(
    env: Env,
    algorithm: Algorithm,
    sizes: Sizes,
    reward_scale: float,
    max_iterations: int,
    mesh: Mesh,
):
    """One compiled loop over iterations for any count. Members are vmapped inside it: counters stay unbatched."""
    step = jax.jit(jax.vmap(partial(train_step.train_step, env, algorithm, sizes), in_axes=(0, None)), inline=True)

    def run(state: TrainState, start: Array, count: Array) -> tuple[TrainState, Metrics]:
        shapes = jax.eval_shape(step, state, start)[1]
        empty = {name: jnp.full((max_iterations, *x.shape), jnp.nan) for name, x in shapes.items()}

        def iteration(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            state, new = step(state, start + i)
            return state, {name: metrics[name].at[i].set(new[name]) for name in metrics}

        state, metrics = jax.lax.fori_loop(0, count, iteration, (state, empty))
        return state, _in_own_units(metrics, reward_scale)

    jitted = compiled(shared(run, mesh, (0, None, None), (0, 1)), donate_argnums=0)
    return lambda state, start, count: jitted(state, jnp.int32(start), jnp.int32(count))


def _in_own_units(outcomes: Metrics, reward_scale: float) -> Metrics:
    """Returns in the environment's units; training sees them scaled."""
    return outcomes | {name: outcomes[name] / reward_scale for name in ("return", "shaped_return") if name in outcomes}


def _make_evaluate(env: Env, algorithm: Algorithm, num_envs: int, reward_scale: float, mesh: Mesh):
    def one(episodes: int, policy: str, learner: Learner, key: Array, step: Array) -> Metrics:
        key = jax.random.fold_in(key, step)
        found = evaluation.evaluate(
            env, algorithm, learner, key, step, episodes=episodes, num_envs=num_envs, policy=policy
        )
        return _in_own_units(found, reward_scale)

    def members(episodes: int, policy: str, *args: Any) -> Metrics:
        vmapped = jax.vmap(partial(one, episodes, policy), in_axes=(0, 0, None))
        return shared(vmapped, mesh, (0, 0, None), 0)(*args)

    jitted = compiled(members, static_argnums=(0, 1))

    def evaluate(learner: Learner, key: Array, env_steps: int, policy: str, *, episodes: int) -> Metrics:
        return jitted(episodes, policy, learner, key, jnp.int32(env_steps))

    return evaluate
