"""The evaluation command: `python -m meigm_jax.evaluate RUN [--episodes N] [--gif FILE] ...`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meigm_jax.arguments import Parser, exit_code
from meigm_jax.config import Config
from meigm_jax.registry import ConfigError
from meigm_jax.runs.saved import CHECKPOINTS, finished_checkpoints, read_config

if TYPE_CHECKING:
    from meigm_jax.runs.episodes import Played
    from meigm_jax.runs.restore import Restored

NOTES = """\
A table gives, per seed and all together, the means over exactly N episodes per seed and their 95 % confidence
intervals: of a seed over its episodes (Wilson for a win rate, else Student-t), of all over the seeds (Student-t), or
over the episodes when there is one seed. The same command gives the same numbers on the same machine.
Exit codes: 0 success; 2 wrong use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate what the arguments ask for and return the exit code: 0, 2 for wrong use, 130 on Ctrl-C."""
    return exit_code(lambda: _answer(_parser().parse_args(argv)))


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
    parser.add_argument("--evaluation-seed", metavar="K", type=int, default=0, help="other episodes (default: 0)")
    parser.add_argument("--gif", metavar="FILE", type=Path, help="show the first seed's first episode as a GIF")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    return parser


def check(options: argparse.Namespace) -> Config:
    """The run's configuration. Raises ConfigError for what can be told without jax."""
    config = read_config(options.run, "run")
    if not finished_checkpoints(options.run, options.checkpoint):
        raise ConfigError(f"run: '{options.run}' has no checkpoint yet")
    if options.episodes is not None and options.episodes < 1:
        raise ConfigError(f"episodes: expected an integer of at least 1, got {options.episodes}")
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
    restored = restore(options.run, options.seed, options.checkpoint, _warn)
    episodes = options.episodes or config.evaluation.final_episodes
    played = play(restored, episodes, options.policy, options.evaluation_seed)
    report = {
        "run": str(options.run),
        "env": config.env.name,
        "algo": config.algo.name,
        "checkpoint": restored.checkpoint,
        "env_steps": restored.env_steps,
        "policy": options.policy,
        "episodes": episodes,
        "evaluation_seed": options.evaluation_seed,
        **_estimates(restored, played),
    }
    if options.gif is not None:
        report["gif"] = _write_gif(options.gif, restored, played)
    return report


def _estimates(restored: Restored, played: Played) -> dict[str, Any]:
    """Per seed, and all together."""
    from meigm_jax.runs.episodes import over_episodes, over_seeds

    rows = zip(restored.seeds, restored.members, strict=True)
    seeds = [
        {"seed": seed, "member": member}
        | {name: over_episodes(name, x[row])._asdict() for name, x in played.metrics.items()}
        for row, (seed, member) in enumerate(rows)
    ]
    several = len(seeds) > 1
    together = {
        name: (over_seeds(name, x.mean(axis=1)) if several else over_episodes(name, x[0]))._asdict()
        for name, x in played.metrics.items()
    }
    return {"seeds": seeds, "all": {"interval_over": "seeds" if several else "episodes", **together}}


def _write_gif(path: Path, restored: Restored, played: Played) -> dict[str, Any]:
    """Draw the first member's first episode."""
    from meigm_jax.runs import gif
    from meigm_jax.runs.files import write_bytes

    render = restored.env.render
    assert render is not None, "checked before anything was restored"
    outcome = {name: float(x[0, 0]) for name, x in played.metrics.items()}
    facts = {"file": str(path), "seed": restored.seeds[0], "episode": 0, **outcome}
    last = len(played.first_episode) - 1
    told = f"{restored.config.env.name} {restored.config.algo.name} seed {restored.seeds[0]}"
    captions = [f"step {step}/{last}  {told}" for step in range(last)]
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
    names = [name for name in report["all"] if name != "interval_over"]
    rows = [("seed", *(name.replace("_", " ") for name in names))]
    rows += [(str(seed["seed"]), *(_cell(seed[name]) for name in names)) for seed in report["seeds"]]
    rows.append(("all", *(_cell(report["all"][name]) for name in names)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["   ".join([row[0].rjust(widths[0]), *map(str.ljust, row[1:], widths[1:])]).rstrip() for row in rows]
    head = (
        f"{report['run']}: {report['env']}, {report['algo']}, {report['checkpoint']} checkpoint at "
        f"{report['env_steps']} env steps\n"
        f"{report['policy']} policy, {report['episodes']} episodes per seed, evaluation seed "
        f"{report['evaluation_seed']}; 95 % intervals over episodes, of all over {report['all']['interval_over']}"
    )
    return "\n".join([head, "", *table, *_gif_lines(report)])


def _cell(estimate: dict[str, float]) -> str:
    mean, low, high = estimate["mean"], estimate["low"], estimate["high"]
    return f"{mean:.4g}" if math.isnan(low) else f"{mean:.4g} [{low:.4g}, {high:.4g}]"


def _gif_lines(report: dict[str, Any]) -> list[str]:
    if "gif" not in report:
        return []
    shown = report["gif"]
    told = f"seed {shown['seed']}, episode {shown['episode']}: {_outcome(shown)}"
    return ["", f"{shown['file']}: {told}, {shown['episode_length']:.0f} steps, {shown['bytes'] / 1e3:.0f} kB"]


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
