"""The evaluation command: `python -m meigm_jax.evaluate RUN [--episodes N] [--gif FILE] ...`."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meigm_jax.arguments import Parser, exit_code
from meigm_jax.config import Config
from meigm_jax.hyper import format_hyper, format_number
from meigm_jax.registry import ConfigError
from meigm_jax.runs.saved import CHECKPOINTS, finished_checkpoints, read_config

if TYPE_CHECKING:
    from meigm_jax.runs.episodes import Played
    from meigm_jax.runs.restore import Restored

MOST_EPISODES = 10_000_000  # per seed: their outcomes are in memory at once
NOTES = """\
A table gives, per seed and all together, the means over exactly N episodes per seed and their 95 % confidence
intervals: of a seed over its episodes (Wilson for a win rate, else Student-t), of all over the seeds (Student-t), or
over the episodes when there is one seed. Of a run that sweeps hyper-parameters the seeds of each point come together.
The same command gives the same numbers on the same machine.
Exit codes: 0 success; 2 wrong use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate what the arguments ask for and return the exit code: 0, 2 for wrong use, 130 on Ctrl-C."""
    return exit_code(lambda: _answer(_parser().read(argv)))


def _answer(options: argparse.Namespace) -> int:
    report = evaluate(options, check(options))
    if options.json:
        from meigm_jax.runs.logger import to_json

        print(to_json(report))
    else:
        print(_text(report))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m meigm_jax.evaluate",
        description="Evaluate what a run has learnt; the run may still be training.",
        epilog=NOTES,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--episodes", metavar="N", type=int, help="per seed (default: the run's final_episodes)")
    parser.add_argument(
        "--policy",
        choices=("greedy", "sampled", "mode"),
        default="greedy",
        help="greedy (default): the local argmax; sampled: the policy that explores; mode: its likeliest action",
    )
    parser.add_argument(
        "--checkpoint",
        choices=CHECKPOINTS,
        default="best",
        help="best (default): of the best evaluation, else the newest; newest: where training stands",
    )
    parser.add_argument("--seed", metavar="K", type=int, help="this seed of the run only (default: all of them)")
    parser.add_argument("--member", metavar="M", type=int, help="of a sweep: this line of its table only")
    parser.add_argument("--evaluation-seed", metavar="K", type=int, default=0, help="other episodes (default: 0)")
    parser.add_argument("--gif", metavar="FILE", type=Path, help="show the first line's first episode as a GIF")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    return parser


def check(options: argparse.Namespace) -> Config:
    """The run's configuration. Raises ConfigError for what can be told without jax."""
    config = read_config(options.run, "run")
    if not finished_checkpoints(options.run, options.checkpoint):
        raise ConfigError(f"run: '{options.run}' has no checkpoint yet")
    if options.episodes is not None and not 1 <= options.episodes <= MOST_EPISODES:
        raise ConfigError(f"episodes: expected an integer from 1 to {MOST_EPISODES}, got {options.episodes}")
    if not 0 <= options.evaluation_seed < 2**31:
        raise ConfigError(f"evaluation-seed: expected an integer from 0 to 2^31 - 1, got {options.evaluation_seed}")
    if options.gif is not None:
        from meigm_jax.runs import gif

        gif.check_path(options.gif)
    return config


def evaluate(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """What the command reports, in plain containers. Raises ConfigError before anything is compiled."""
    from meigm_jax import envs
    from meigm_jax.runs.episodes import play
    from meigm_jax.runs.restore import restore

    if options.gif is not None and envs.make(config.env.name, **config.env.options).render is None:
        raise ConfigError(f"gif: {config.env.name} has no drawing")
    restored = restore(options.run, options.seed, options.checkpoint, _warn, options.member)
    episodes = options.episodes or config.evaluation.final_episodes
    played = play(restored, episodes, options.policy, options.evaluation_seed)
    report = {
        "run": str(options.run),
        "env": config.env.name,
        "algo": config.algo.name,
        "checkpoint": restored.checkpoint,
        "env_steps": max(restored.env_steps),
        "policy": options.policy,
        "episodes": episodes,
        "evaluation_seed": options.evaluation_seed,
        **_estimates(restored, played),
    }
    if options.gif is not None:
        report["gif"] = _write_gif(options.gif, restored, played)
    return report


def _estimates(restored: Restored, played: Played) -> dict[str, Any]:
    """Per member, and all seeds together; of a sweep, of each of its points."""
    from meigm_jax.runs.episodes import over_episodes

    rows = zip(restored.seeds, restored.members, restored.hypers, restored.env_steps, strict=True)
    seeds = [
        {"seed": seed, "member": member, "hyper": hyper, "env_steps": env_steps}
        | {name: over_episodes(name, x[row])._asdict() for name, x in played.metrics.items()}
        for row, (seed, member, hyper, env_steps) in enumerate(rows)
    ]
    if not restored.config.sweep:
        return {"seeds": seeds, "all": _together(played, range(len(seeds)))}
    points = itertools.groupby(range(len(seeds)), lambda row: restored.hypers[row])
    return {"seeds": seeds, "points": [{"hyper": hyper, **_together(played, list(rows))} for hyper, rows in points]}


def _together(played: Played, rows: Sequence[int]) -> dict[str, Any]:
    from meigm_jax.runs.episodes import over_episodes, over_seeds

    several = len(rows) > 1
    found = {
        name: (over_seeds(name, x[rows].mean(axis=1)) if several else over_episodes(name, x[rows[0]]))._asdict()
        for name, x in played.metrics.items()
    }
    return {"interval_over": "seeds" if several else "episodes", **found}


def _write_gif(path: Path, restored: Restored, played: Played) -> dict[str, Any]:
    """Draw the first member's first episode."""
    from meigm_jax.runs import gif
    from meigm_jax.runs.files import write_bytes

    render = restored.env.render
    assert render is not None, "checked before anything was restored"
    outcome = {name: float(x[0, 0]) for name, x in played.metrics.items()}
    facts = {"file": str(path), "seed": restored.seeds[0], "episode": 0, **outcome}
    last = len(played.first_episode) - 1
    shown = f"{restored.config.env.name} {restored.config.algo.name} seed {restored.seeds[0]}"
    if restored.config.sweep:
        facts |= {"member": restored.members[0], "hyper": restored.hypers[0]}
        shown += f" member {restored.members[0]}"
    captions = [f"step {step}/{last}  {shown}" for step in range(last)]
    captions.append(f"step {last}/{last}  {_outcome(outcome)}")
    data = gif.encode(render(played.first_episode), captions)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise ConfigError(f"gif: cannot write '{path}': {error.strerror}") from error
    return {**facts, "bytes": len(data)}


def _outcome(metrics: dict[str, float]) -> str:
    won = {1.0: "won, ", 0.0: "not won, "}.get(metrics.get("win_rate", -1.0), "")
    return f"{won}return {metrics['return']:.4g}"


def _text(report: dict[str, Any]) -> str:
    groups = report.get("points") or [report["all"]]
    names = [name for name in groups[0] if name not in ("interval_over", "hyper")]
    swept = list(groups[0].get("hyper", ()))
    about = [*(["member"] if swept else []), *swept, "seed"]
    rows = [(*about, *(name.replace("_", " ") for name in names))]
    for each in report["seeds"]:
        number = [str(each["member"])] if swept else []
        rows.append((*number, *_values(each), str(each["seed"]), *(_cell(each[name]) for name in names)))
    for group in groups if not swept or len(groups) < len(report["seeds"]) else ():
        rows.append((*([""] if swept else []), *_values(group), "all", *(_cell(group[name]) for name in names)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    k = len(about)
    table = [
        "   ".join([*map(str.rjust, row[:k], widths), *map(str.ljust, row[k:], widths[k:])]).rstrip() for row in rows
    ]
    steps = sorted({each["env_steps"] for each in report["seeds"]})  # several: each point of a sweep has its best
    at = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0])
    head = (
        f"{report['run']}: {report['env']}, {report['algo']}, {report['checkpoint']} checkpoint at {at} env steps\n"
        f"{report['policy']} policy, {report['episodes']} episodes per seed, evaluation seed "
        f"{report['evaluation_seed']}; 95 % intervals over episodes, of all over {groups[0]['interval_over']}"
    )
    return "\n".join([head, "", *table, *_gif_lines(report)])


def _values(entry: dict[str, Any]) -> list[str]:
    """Of what is swept."""
    return [format_number(value) for value in entry.get("hyper", {}).values()]


def _cell(estimate: dict[str, float]) -> str:
    mean, low, high = estimate["mean"], estimate["low"], estimate["high"]
    return f"{mean:.4g}" if math.isnan(low) else f"{mean:.4g} [{low:.4g}, {high:.4g}]"


def _gif_lines(report: dict[str, Any]) -> list[str]:
    if "gif" not in report:
        return []
    shown = report["gif"]
    which = f"{format_hyper(shown['hyper'])}, " if "hyper" in shown else ""
    about = f"{which}seed {shown['seed']}, episode {shown['episode']}: {_outcome(shown)}"
    return ["", f"{shown['file']}: {about}, {shown['episode_length']:.0f} steps, {shown['bytes'] / 1e3:.0f} kB"]


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
