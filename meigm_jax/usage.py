"""The text of `--help`, written from configs/ (comments and values) and from the registries of parts."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path

from meigm_jax.config import REGISTRIES
from meigm_jax.envs import SUITES
from meigm_jax.registry import Part

GROUPS = ("env", "algo", "experiment")  # folders of configs/, in the order in which they are composed
_PACKAGE = Path(__file__).resolve().parent
# Inside the package once installed, beside it in a checkout.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"

WIDTH = 118
PART_MEANINGS = {
    "algo.rule": "learning rule",
    "algo.agent": "network of the local utilities",
    "algo.mixer": "local utilities to one joint value",
    "algo.opt": "order-preserving transformation (OPT) of the utilities",
    "algo.temperature": "weight of the entropy",
}
TITLES = {
    "env": "Environments (+env=NAME; several with commas)",
    "algo": "Algorithms (algo=NAME; several with commas)",
    "experiment": "Experiments (+experiment=NAME): values that belong together",
}
RESUME = "continue the run, or several, in PATH: no +env; total_env_steps, devices, log, checkpoint, wandb may change"
EXAMPLES = """\
  python -m meigm_jax.train +env=smax_5v5                                    # ME-QMIX, the default algorithm
  python -m meigm_jax.train +env=smax_5v5 algo=qmix seeds=4 total_env_steps=1e7
  python -m meigm_jax.train +env=smax_3m algo=qmix,me_qmix hyper.gamma=0.98  # two runs, one after the other
  python -m meigm_jax.train +env=smax_3m seeds=2 sweep.alpha_lr=[0.03,0.3] sweep.target_entropy=[0.12,0.24]  # one run
  python -m meigm_jax.train +env=smax_3m algo.mixer.embed_dim=64
  python -m meigm_jax.train +env=matrix_game +experiment=smoke               # a minute: does everything work?
  python -m meigm_jax.train resume=runs/smax_5v5/me_qmix/NAME total_env_steps=4e6
  python -m meigm_jax.train resume=runs/sweeps/NAME                          # all runs of a command with several"""


@cache
def choices(group: str) -> tuple[str, ...]:
    """The names that `group` ("env", "algo" or "experiment") can be given: its files in configs/."""
    return tuple(sorted((path.stem for path in (CONFIGS / group).glob("*.yaml")), key=_natural))


def usage() -> str:
    """The help text: examples, names, and every option with its default and meaning."""
    names = "\n\n".join(f"{title}\n{_wrap(' '.join(choices(group)))}" for group, title in TITLES.items())
    return f"""\
Train cooperative agents by maximum-entropy value decomposition.

usage: python -m meigm_jax.train +env=NAME [algo=NAME] [+experiment=NAME] [key=value ...]
       python -m meigm_jax.train resume=FOLDER [key=value ...]
With --dry-run, anywhere, nothing is trained or written: it shows configuration, memory, sizes and estimated time.

Examples
{EXAMPLES}

{names}

Options, with defaults (an algorithm, environment or experiment may set others; the command line has the last word)
{_line("resume=PATH", RESUME)}
{_options((CONFIGS / "config.yaml").read_text())}

Options of the algorithm and its parts (name -> what it takes)
{_line("algo.name=me_qmix", "second part of the run directory")}
{_parts()}

Options of the environment itself
{_line("env.id=ID", "of +env=jaxmarl: any JaxMARL environment with discrete actions; env.options go to its maker")}
{_suites()}

Exit codes: 0 success; 2 wrong configuration; 130 Ctrl-C and 143 SIGTERM, after saving a checkpoint
(before anything is learnt there is none to save); 1 crash, or the end of a run that could not be written."""


def _natural(name: str) -> list[str | int]:
    """Sorts smax_3m before smax_25m."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _line(assignment: str, meaning: str) -> str:
    return textwrap.fill(f"  {assignment:<40} {meaning}", WIDTH, subsequent_indent=" " * 43)


def _options(yaml: str) -> str:
    """One line per key of config.yaml, which keeps to two levels and to `key: value  # meaning`."""
    lines, section = [], ""
    _, _, body = yaml.partition("\n\n")  # after the defaults list
    for line in body.splitlines():
        setting, _, meaning = line.partition("  # ")
        key, _, value = setting.partition(":")
        if not line:
            lines.append("")
        elif value:
            value = value.strip().replace("???", "NAME")
            lines.append(_line(f"{section if key.startswith(' ') else ''}{key.strip()}={value}", meaning))
        else:
            section = f"{key}."
            lines.append(f"  -- {key}: {meaning}")
    return "\n".join(lines)


def _parts() -> str:
    blocks = []
    for path, registry in REGISTRIES.items():
        blocks.append(_line(f"{path}.name=NAME", f"{PART_MEANINGS[path]}: {', '.join(registry)}"))
        blocks += [_part_options(path, name, part) for name, part in registry.items() if part.options]
    return "\n".join(blocks)


def _suites() -> str:
    shown = {" ... ".join(dict.fromkeys((names[0], names[-1]))): part for names, part in SUITES.items()}
    return "\n".join(_part_options("env.options", name, part) for name, part in shown.items())


def _part_options(path: str, name: str, part: Part) -> str:
    lines = [f"    {name} ->"]
    for key, option in part.options.items():
        default = option.default
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
        values = f" ({' or '.join(map(str, option.allowed))})" if option.allowed else ""
        lines.append(_line(f"    {path}.{key}={shown}", option.meaning + values))
    return "\n".join(lines)
