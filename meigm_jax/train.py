"""The training command: `python -m meigm_jax.train +env=NAME [key=value ...]`.

Hydra composes the YAML files of configs/; names, keys and values are checked here and in config.py, so that a wrong
command is answered in one line, before jax is imported or anything is written.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from meigm_jax import sweep
from meigm_jax.arguments import exit_code
from meigm_jax.config import REGISTRIES, Config, build, reads_of, run_directory, to_dict
from meigm_jax.hyper import SHORT
from meigm_jax.registry import ConfigError, nearest
from meigm_jax.runs.job import Job
from meigm_jax.runs.saved import read_config
from meigm_jax.usage import CONFIGS, GROUPS, choices, usage

LITERAL = ("resume", "run_dir", "name")  # taken as they are: paths may hold what Hydra's grammar reserves
# On resume: what never changes an earlier result.
MAY_CHANGE = ("total_env_steps", "devices", "checkpoint.", "log.", "wandb.")


class Command(NamedTuple):
    """What a command line asks for."""

    groups: dict[str, list[str]]  # "env", "algo", "experiment" -> the chosen files
    values: dict[str, Any]  # dotted key -> value
    resume: Path | None
    dry_run: bool = False  # only say what the runs would be and take


def main(argv: Sequence[str] | None = None) -> int:
    """Train what the arguments ask for and return the exit code: 0, 2 for a wrong configuration, 130 on Ctrl-C."""
    return exit_code(lambda: _answer(list(sys.argv[1:] if argv is None else argv)))


def _answer(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    command = parse(arguments)
    jobs = plan(command)
    from meigm_jax.runs.devices import divide_cpu  # imports jax
    from meigm_jax.runs.loop import check, run

    divide_cpu([job.config for job in jobs])
    for job in jobs:
        check(job.config, job.resume, memory=not command.dry_run)  # a dry run tells more before it says so
    for line in _without_effect(command, jobs):
        print("warning:", line, file=sys.stderr)
    if command.dry_run:
        from meigm_jax.runs.dry_run import report

        report(jobs)
    elif jobs[0].sweep is not None:
        return _train_all(command, jobs, run)
    else:
        run(jobs[0].config, resume=jobs[0].resume)
    return 0


def _train_all(command: Command, jobs: Sequence[Job], run: Callable[..., dict[str, Any]]) -> int:
    """Go through a sweep; one that is named after the time takes another name where another sweep was faster."""
    has_a_name = command.resume is not None or {"name", "run_dir"} & command.values.keys()
    while True:
        try:
            return sweep.train(jobs, run, new=command.resume is None)
        except sweep.Taken:
            if has_a_name:
                raise
            jobs = plan(command)


def parse(arguments: Sequence[str]) -> Command:
    """Split `key=value` arguments into chosen files and values; of a key given twice the last counts.

    Raises ConfigError on anything else, and on a key given by both of its names.
    """
    command, spelled = Command({}, {}, None), dict[str, str]()
    for argument in arguments:
        if argument == "--dry-run":
            command = command._replace(dry_run=True)
            continue
        given, equals, text = argument.lstrip("+").partition("=")
        key = _in_full(given)
        if not equals or not key or key[0] in "-~":
            raise ConfigError(f"cannot read '{argument}': expected key=value (see --help)")
        if spelled.setdefault(key, given) != given:
            raise ConfigError(f"{given}: {spelled[key]} is the same and is given too; leave one of them out")
        if key in GROUPS:
            command.groups[key] = _names(key, text)
        elif key == "resume":
            if not text:
                raise ConfigError("resume: expected the path of a run or of a sweep, got ''")
            command = command._replace(resume=Path(text))
        else:
            command.values[key] = _literal(text) if key in LITERAL else _value(key, text)
    return command


def plan(command: Command) -> list[Job]:
    """Every run that the command asks for, validated. Raises ConfigError if any of them is wrong."""
    if command.resume is not None:
        return _resumed(command, command.resume)
    if "env" not in command.groups:
        raise ConfigError(f"missing +env=NAME; environments: {', '.join(choices('env'))}")
    for key in command.values:
        section, _, name = key.partition(".")
        if section == "sweep" and f"hyper.{name}" in command.values:
            raise ConfigError(f"{key}: hyper.{name} is given too; leave one of them out")
    runs = [(experiment, build(tree)) for experiment, tree in _compositions(command)]
    return sweep.lay_out(runs) if len(runs) > 1 else [Job(runs[0][1], None)]


def configure(*arguments: str) -> Config:
    """The configuration of the one run that the arguments of this command ask for, to be run by `runs.loop.run`.

    Raises ConfigError on a wrong one, and where they ask for several runs or to resume.
    """
    command = parse(arguments)
    if command.resume is not None or command.dry_run:
        raise ConfigError("configure: expected the arguments of a new run")
    jobs = plan(command)
    if len(jobs) > 1:
        raise ConfigError(f"configure: expected one run, got {len(jobs)}")
    return jobs[0].config


def _without_effect(command: Command, jobs: Sequence[Job]) -> Iterator[str]:
    """A line on each number of `hyper` that the command sets and none of its runs reads."""
    read = {name for job in jobs for name in reads_of(job.config)}
    for key in command.values:
        section, _, name = key.partition(".")
        if section == "hyper" and name not in read:
            algos = ", ".join(dict.fromkeys(job.config.algo.name for job in jobs))
            yield f"{key} makes no difference to {algos}"


def _in_full(key: str) -> str:
    """hyper.lr -> hyper.learning_rate."""
    section, dot, name = key.partition(".")
    return f"{section}.{SHORT.get(name, name)}" if dot and section in ("hyper", "sweep") else key


def _names(group: str, text: str) -> list[str]:
    """The files of `group` that "a,b" names, each once."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in choices(group):
            raise ConfigError(f"{group}: unknown name '{name}'; {_hint(group, name)}")
    return names


def _hint(group: str, name: str) -> str:
    """What may have been meant by the unknown `name`."""
    known, plain = choices(group), name.removeprefix("me_")
    if group == "algo" and name != plain in known:
        return f"maximum-entropy versions: {', '.join(each for each in known if each.startswith('me_'))}"
    return nearest(name, known)


def _literal(text: str) -> str | None:
    return None if text == "null" else text


def _value(key: str, text: str) -> Any:
    """A value in Hydra's grammar: numbers, true, null, [lists], {a: dict}, 'quoted' or bare text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise ConfigError(f"cannot read '{key}={text}': {str(error).splitlines()[0]}") from error
    if override.is_sweep_override():
        section, _, name = key.partition(".")
        at_once = section in ("hyper", "sweep")
        hint = f"; to train them at once: sweep.{name}=[{text}]" if at_once else f"; a list is {key}=[{text}]"
        raise ConfigError(f"{key}: several values are possible for {', '.join(GROUPS)} only, got '{text}'{hint}")
    return override.value()


def _compositions(command: Command) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration of each combination of the chosen files: env, then algo, then experiment, then the values.

    The experiment comes with it where there are several.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    with _hydra():
        for names in itertools.product(*command.groups.values()):
            chosen = dict(zip(command.groups, names, strict=True))
            overrides = [f"{'+' if group == 'experiment' else ''}{group}={name}" for group, name in chosen.items()]
            experiment = chosen["experiment"] if len(command.groups.get("experiment", [])) > 1 else ""
            yield experiment, _with_values(OmegaConf.to_container(compose("config", overrides)), command.values)


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra with configs/, also where the caller is an application of Hydra's."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def _with_values(tree: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with dotted keys set, a part's name before its options. Unknown keys are set too: `build` names them."""
    for key, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        *parents, last = key.split(".")
        node = tree
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"unknown key '{key}'; {'.'.join(parents[: depth + 1])} is not a section")
        node[last] = {"name": value} if key in REGISTRIES and isinstance(value, str) else value
    return tree


def _resumed(command: Command, path: Path) -> list[Job]:
    """The run, or all runs of the sweep, in `path`. Raises ConfigError when there is none, or it can't go on."""
    if not (path / sweep.PLAN).exists():
        return [Job(_changed(read_config(path, "resume"), command, path), path)]
    return [_resumed_in_sweep(planned, command, path) for planned in sweep.read(path)]


def _resumed_in_sweep(planned: Config, command: Command, folder: Path) -> Job:
    """One run of a sweep, from where it has got to. Raises ConfigError when something else is in its place."""
    run_dir = run_directory(planned)
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return Job(_changed(planned, command, folder), None, folder)
    saved = read_config(run_dir, "resume")
    if key := _difference(planned, saved, (*MAY_CHANGE, "run_dir", "name")):
        raise ConfigError(f"resume: '{run_dir}' is not the run that {folder / sweep.PLAN} has there: {key} differs")
    steps = max(saved.total_env_steps, planned.total_env_steps)  # it may have been extended by itself
    return Job(_changed(replace(planned, total_env_steps=steps), command, run_dir), run_dir, folder)


def _changed(old: Config, command: Command, path: Path) -> Config:
    """`old`, of the run in `path`, with the command's values. Raises ConfigError on any that may not change."""
    chosen = {f"{group}.name": name for group, names in command.groups.items() for name in names}
    new = build(_with_values(to_dict(old), chosen | command.values))
    if key := _difference(old, new, MAY_CHANGE):
        allowed = ", ".join(f"{name}*" if name.endswith(".") else name for name in MAY_CHANGE)
        before = _flat(to_dict(old)).get(key, "not set")
        raise ConfigError(f"{key}: cannot change on resume ({before} in {path}); what can: {allowed}")
    if new.total_env_steps < old.total_env_steps:
        raise ConfigError(
            f"total_env_steps: can only grow on resume ({old.total_env_steps} in {path}), got {new.total_env_steps}"
        )
    return new


def _difference(old: Config, new: Config, but: tuple[str, ...]) -> str | None:
    """The first key whose values differ, leaving out those that begin with one of `but`."""
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    keys = sorted(before.keys() | after.keys())
    return next((key for key in keys if before.get(key) != after.get(key) and not key.startswith(but)), None)


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf."""
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def leave_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end the process at once, until the loop, which saves first, takes over."""

    def leave(number: int, _: object) -> None:
        os._exit(128 + number)  # an exception would be swallowed where it hits one of JAX's callbacks

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)


if __name__ == "__main__":
    leave_on_signals()
    sys.exit(main())
