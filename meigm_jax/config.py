"""The configuration: frozen dataclasses and a strict builder; every wrong key or value is an error that names it.

The meaning of every key stands beside its default in configs/config.yaml, where --help reads it. Imports neither jax
nor hydra: a wrong command must be answered at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from meigm_jax.algos import RULES
from meigm_jax.envs import BY_ID, check_options, episode_limit, suite_of
from meigm_jax.hyper import SHORT, Hyper, format_hyper, format_number
from meigm_jax.mixers import MIXERS
from meigm_jax.modules import AGENTS, OPTS, TEMPERATURES
from meigm_jax.registry import ConfigError, Part, lookup, nearest, one_of, scalar

TIME_FORMAT = "%Y-%m-%d_%H%M%S"  # of the name that a run gets


@dataclass(frozen=True)
class PartConfig:
    """A named part and its options, completed with the part's defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and what training does to its rewards and time limit."""

    name: str
    reward_scale: float
    bootstrap_on_timeout: bool
    options: Mapping[str, Any]


@dataclass(frozen=True)
class AlgoConfig:
    """A learning rule and the parts it is made of."""

    name: str
    rule: PartConfig
    agent: PartConfig
    mixer: PartConfig | None = None
    opt: PartConfig | None = None
    temperature: PartConfig | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How much is collected and learnt per iteration."""

    num_envs: int
    chunk_length: int
    updates_per_chunk: int
    batch_size: int
    target_update_interval: int
    warmup_sequences: int
    in_turn: bool | None = None
    precision: Literal["float32", "bfloat16"] | None = None


@dataclass(frozen=True)
class ReplayConfig:
    """The sequence replay of each seed."""

    capacity: int
    dtype: Literal["float16", "bfloat16", "float32"]
    return_weight: float
    observations: Literal["stored", "recomputed"] | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation inside training: exactly `episodes` episodes per seed and policy, each time."""

    interval: int
    episodes: int
    final_episodes: int
    num_envs: int
    policies: tuple[Literal["greedy", "sampled", "mode"], ...]


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved, and how many checkpoints are kept (the best one by evaluation besides)."""

    interval_seconds: float
    keep: int


@dataclass(frozen=True)
class LogConfig:
    """Metrics and the progress bar."""

    interval: int
    progress: bool


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases: off unless asked for."""

    mode: Literal["disabled", "online", "offline"]
    project: str
    entity: str | None
    group: str | None
    runs: Literal["together", "per_seed"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    seed: int
    seeds: int
    total_env_steps: int
    devices: int | None
    run_dir: str | None
    name: str | None
    env: EnvConfig
    algo: AlgoConfig
    hyper: Mapping[str, float]
    sweep: Mapping[str, tuple[float, ...]]
    train: TrainConfig
    replay: ReplayConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    wandb: WandbConfig


class Member(NamedTuple):
    """One row of the batch that a run trains: a seed, and its own values of the hypers that are swept."""

    seed: int
    hyper: dict[str, float]


REGISTRIES: dict[str, Mapping[str, Part]] = {
    "algo.rule": RULES,
    "algo.agent": AGENTS,
    "algo.mixer": MIXERS,
    "algo.opt": OPTS,
    "algo.temperature": TEMPERATURES,
}
READ_BY_ALL = ("learning_rate", "max_grad_norm", "gamma", "td_lambda")


def build(raw: Mapping[str, Any]) -> Config:
    """A validated Config from plain containers. Raises ConfigError, one line, on the first wrong key or value."""
    config = _build(Config, raw, "")
    validate(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain containers of the whole configuration; `build(to_dict(c)) == c`."""
    return _plain(config)


def run_directory(config: Config) -> Path:
    """`run_dir`, else runs/<env>/<algo>/<name>, with the local time for a name that is not given."""
    name = config.name or datetime.now().strftime(TIME_FORMAT)
    return Path(config.run_dir) if config.run_dir else Path("runs", config.env.name, config.algo.name, name)


def steps_per_iteration(config: Config) -> int:
    """Env steps that one iteration counts: every row of every environment, per seed."""
    return config.train.num_envs * config.train.chunk_length


def num_iterations(config: Config) -> int:
    """Iterations of the whole run: the smallest number that reaches total_env_steps."""
    return -(-config.total_env_steps // steps_per_iteration(config))


def grid(config: Config) -> list[dict[str, float]]:
    """Every combination of the swept values, the last name's fastest; one, and that empty, where nothing is swept."""
    return [dict(zip(config.sweep, values, strict=True)) for values in itertools.product(*config.sweep.values())]


def members(config: Config) -> list[Member]:
    """The member axis of a run: the points of its grid one after the other, each with every seed."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [Member(seed, point) for point in grid(config) for seed in seeds]


def num_members(config: Config) -> int:
    """S: points of the grid times seeds."""
    return math.prod(map(len, config.sweep.values())) * config.seeds


def members_in_words(config: Config) -> str:
    """'3 seeds', or '12 members (6 points of the sweep x 2 seeds)'."""
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    total = num_members(config)
    points = total // config.seeds
    return f"{total} members ({points} points of the sweep x {seeds})" if config.sweep else seeds


def check_chunk(config: Config, limit: int | None) -> None:
    """Raise ConfigError where a chunk is shorter than the longest possible episode. None: not known yet."""
    if limit is not None and config.train.chunk_length < limit:
        raise ConfigError(
            f"train.chunk_length: expected at least the episode limit of {config.env.name} ({limit}), "
            f"got {config.train.chunk_length}"
        )


def check_parts(algo: AlgoConfig) -> None:
    """Every part that the rule is made of is there, and no other. Raises ConfigError."""
    used = RULES[algo.rule.name].parts
    for kind in ("opt", "temperature", "mixer"):
        path, given = f"algo.{kind}", getattr(algo, kind) is not None
        if given and kind not in used:
            raise ConfigError(f"{path}: expected null, the rule '{algo.rule.name}' has no {kind}")
        if not given and kind in used:
            raise ConfigError(f"{path}: the rule '{algo.rule.name}' needs one of {', '.join(REGISTRIES[path])}")


def check_sweep(config: Config) -> None:
    """Every swept number makes a difference to the run. Raises ConfigError."""
    reads = reads_of(config)
    for name in config.sweep:
        if name not in reads:
            raise ConfigError(
                f"sweep.{name}: {config.algo.name} does not read it on {config.env.name}; it reads {', '.join(reads)}"
            )


def reads_of(config: Config) -> list[str]:
    """The numbers of `hyper` that make a difference to the run, in their order."""
    chosen = {path: getattr(config.algo, path.removeprefix("algo.")) for path in REGISTRIES}
    parts = [REGISTRIES[path][part.name] for path, part in chosen.items() if part is not None]
    reads = {*READ_BY_ALL, *itertools.chain.from_iterable(part.reads for part in (suite_of(config.env.name), *parts))}
    return [name for name in Hyper._fields if name in reads]


def _plain(value: Any) -> Any:
    if isinstance(value, PartConfig):
        return {"name": value.name, **_plain(value.options)}
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _build(cls: type, raw: Any, path: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in _section(raw, path):
        if key not in hints:
            is_hyper = not path and SHORT.get(key, key) in Hyper._fields
            hint = f"did you mean hyper.{key}?" if is_hyper else nearest(str(key), hints)
            raise ConfigError(f"unknown key '{_join(path, key)}'; {hint}")
    fields = dataclasses.fields(cls)
    defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    defaults |= {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    raw = defaults | dict(raw)
    missing = [key for key in hints if key not in raw]
    if missing:
        raise ConfigError(f"missing key '{_join(path, missing[0])}'")
    return cls(**{key: _convert(hint, raw[key], _join(path, key)) for key, hint in hints.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if hint is PartConfig:
        return _build_part(value, path)
    if path == "hyper":
        return _build_hyper(value)
    if path == "sweep":
        return _build_sweep(value)
    if hint is EnvConfig:
        return _build_env(value, path)
    if path == "env.options":
        return _section({} if value is None else value, path)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return one_of(value, args, path)
    if origin is tuple:
        return _tuple_of(args[0], value, path)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(args[0], value, path)
    return scalar(hint, value, path)


def _tuple_of(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        value = [value]
    return tuple(_convert(hint, item, path) for item in value)


def _build_part(raw: Any, path: str) -> PartConfig:
    if isinstance(raw, str):  # short for {name: raw}
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or "name" not in raw:
        raise ConfigError(f"{path}: expected a section with a name, got {raw!r}")
    name = scalar(str, raw["name"], f"{path}.name")
    if name in RULES and name not in REGISTRIES[path]:
        raise ConfigError(f"{path}.name: '{name}' is a learning rule with a loss of its own, which algo=NAME chooses")
    part = lookup(REGISTRIES[path], name, f"{path}.name")
    given = {key: value for key, value in raw.items() if key != "name"}
    return PartConfig(name, part.complete(given, path))


def _build_hyper(raw: Any) -> dict[str, float]:
    for key in _section(raw, "hyper"):
        if key not in Hyper._fields:
            raise ConfigError(f"unknown key 'hyper.{key}'; {nearest(str(key), Hyper._fields)}")
    missing = [key for key in Hyper._fields if key not in raw]
    if missing:
        raise ConfigError(f"missing key 'hyper.{missing[0]}'")
    for key, value in raw.items():
        if isinstance(value, list | tuple):
            raise ConfigError(f"hyper.{key}: expected float, got {value!r}; several at once are sweep.{key}=[A,B,...]")
    return {key: scalar(float, raw[key], f"hyper.{key}") for key in Hyper._fields}


def _build_sweep(raw: Any) -> dict[str, tuple[float, ...]]:
    sweep: dict[str, tuple[float, ...]] = {}
    for key, values in _section(raw, "sweep").items():
        name, path = SHORT.get(key, key), f"sweep.{key}"
        if name not in Hyper._fields:
            raise ConfigError(f"unknown key '{path}'; {nearest(str(key), [*Hyper._fields, *SHORT])}")
        if name in sweep:
            raise ConfigError(f"{path}: sweep.{name} is given twice")
        if not isinstance(values, list | tuple) or not values:
            raise ConfigError(f"{path}: expected a list of numbers, {path}=[A,B,...], got {values!r}")
        sweep[name] = tuple(scalar(float, value, path) for value in values)
        if len(set(map(format_number, sweep[name]))) < len(values):
            raise ConfigError(f"{path}: expected values that differ (in six digits), got {list(sweep[name])}")
    return sweep


def _build_env(raw: Any, path: str) -> EnvConfig:
    if "id" in _section(raw, path):  # short for the name of one of JaxMARL's environments
        if raw.get("name") != BY_ID:
            raise ConfigError(f"env.id: only +env={BY_ID} takes an id, not {raw.get('name')}")
        env_id = scalar(str, raw["id"], f"{path}.id")
        raw = {key: value for key, value in raw.items() if key != "id"} | {"name": f"{BY_ID}_{env_id}"}
    env = _build(EnvConfig, raw, path)
    return dataclasses.replace(env, options=check_options(env.name, env.options))


def _section(raw: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'configuration'}: expected a section, got {raw!r}")
    return raw


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


# What is in range: dotted key -> (test, what would be right). Keys of `hyper` and of the sections alike.
POSITIVE = (lambda v: v > 0, "a number above 0")
NOT_NEGATIVE = (lambda v: v >= 0, "a number of at least 0")
UNIT = (lambda v: 0 <= v <= 1, "a number from 0 to 1")
AT_LEAST_1 = (lambda v: v >= 1, "an integer of at least 1")
RANGES: dict[str, tuple[Any, str]] = {
    "seed": (lambda v: 0 <= v < 2**31, "an integer from 0 to 2^31 - 1"),
    "seeds": AT_LEAST_1,
    "devices": (lambda v: v is None or v >= 1, "an integer of at least 1, or null"),
    "total_env_steps": (lambda v: 1 <= v < 2**31, "an integer from 1 to 2^31 - 1"),  # counted in int32 on the device
    "env.reward_scale": POSITIVE,
    "hyper.learning_rate": POSITIVE,
    "hyper.opt_learning_rate": POSITIVE,
    "hyper.alpha_learning_rate": NOT_NEGATIVE,
    "hyper.max_grad_norm": POSITIVE,
    "hyper.gamma": UNIT,
    "hyper.td_lambda": UNIT,
    "hyper.epsilon_start": UNIT,
    "hyper.epsilon_end": UNIT,
    "hyper.epsilon_decay_steps": POSITIVE,
    "hyper.alpha_start": POSITIVE,
    "hyper.alpha_end": POSITIVE,
    "hyper.alpha_decay_steps": POSITIVE,
    "hyper.alpha_min": POSITIVE,
    "hyper.alpha_max": POSITIVE,
    "hyper.target_entropy": NOT_NEGATIVE,
    "hyper.shaping_start": NOT_NEGATIVE,
    "hyper.shaping_decay_steps": POSITIVE,
    "train.num_envs": AT_LEAST_1,
    "train.chunk_length": AT_LEAST_1,
    "train.updates_per_chunk": AT_LEAST_1,
    "train.batch_size": AT_LEAST_1,
    "train.target_update_interval": AT_LEAST_1,
    "train.warmup_sequences": AT_LEAST_1,
    "replay.capacity": AT_LEAST_1,
    "replay.return_weight": NOT_NEGATIVE,
    "evaluation.interval": AT_LEAST_1,
    "evaluation.episodes": AT_LEAST_1,
    "evaluation.final_episodes": AT_LEAST_1,
    "evaluation.num_envs": AT_LEAST_1,
    "checkpoint.interval_seconds": NOT_NEGATIVE,
    "checkpoint.keep": AT_LEAST_1,
    "log.interval": AT_LEAST_1,
}


def validate(config: Config) -> None:
    """Check ranges and how values fit together. Raises ConfigError, one line."""
    plain = to_dict(config)
    for path, (test, wanted) in RANGES.items():
        value: Any = plain
        for key in path.split("."):
            value = value[key]
        if not test(value):
            raise ConfigError(f"{path}: expected {wanted}, got {value}")
    for name, values in config.sweep.items():
        test, wanted = RANGES[f"hyper.{name}"]
        for value in values:
            if not test(value):
                raise ConfigError(f"sweep.{name}: expected {wanted}, got {value}")
    _validate_together(config)
    reads = reads_of(config)
    for point in grid(config):
        _validate_temperature({**config.hyper, **point}, reads, f"sweep: with {format_hyper(point)}, " if point else "")


def _validate_together(config: Config) -> None:
    train = config.train
    for path, name in {"name": config.name, "algo.name": config.algo.name}.items():
        if name is not None and (name in ("", ".", "..") or "/" in name):
            raise ConfigError(f"{path}: expected the name of a folder, without '/', got '{name}'")
    if config.run_dir == "":
        raise ConfigError("run_dir: expected a path, got ''")
    if (counted := num_iterations(config) * steps_per_iteration(config)) >= 2**31:
        raise ConfigError(
            f"total_env_steps: in whole iterations of {steps_per_iteration(config)} they must stay below 2^31, "
            f"got {config.total_env_steps}, which makes {counted}"
        )
    if config.replay.capacity % train.num_envs:
        raise ConfigError(
            f"replay.capacity: expected a multiple of train.num_envs ({train.num_envs}), got {config.replay.capacity}"
        )
    if train.warmup_sequences > config.replay.capacity:
        raise ConfigError(
            f"train.warmup_sequences: expected at most replay.capacity ({config.replay.capacity}), "
            f"got {train.warmup_sequences}"
        )
    check_chunk(config, episode_limit(config.env.name, config.env.options))
    check_parts(config.algo)
    check_sweep(config)
    policies = config.evaluation.policies
    if not policies or len(set(policies)) < len(policies):
        raise ConfigError(
            f"evaluation.policies: expected some of greedy, sampled, mode, each once, got {list(policies)}"
        )
    if config.seed + config.seeds > 2**31:
        raise ConfigError(f"seeds: seed + seeds must be at most 2^31, got {config.seed} + {config.seeds}")


def _validate_temperature(hyper: Mapping[str, float], reads: Sequence[str], where: str) -> None:
    low, high = hyper["alpha_min"], hyper["alpha_max"]
    if low > high:
        raise ConfigError(f"{where}hyper.alpha_min: expected at most hyper.alpha_max ({high}), got {low}")
    for key in ("alpha_start", "alpha_end"):
        if key in reads and not low <= hyper[key] <= high:
            raise ConfigError(
                f"{where}hyper.{key}: expected a number from hyper.alpha_min ({low}) to hyper.alpha_max ({high}), "
                f"got {hyper[key]}"
            )
