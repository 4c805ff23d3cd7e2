"""The text of `--help`, written from configs/ (comments and values) and from the registries of parts."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path

from meigm_jax.config import REGISTRIES
from meigm_jax.envs import SUITES
from meigm_jax.registry import OneOf, Part

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
OPTION_MEANINGS = {  # of `algo.<part>.<option>` and `env.options.<option>`
    "acting_quantiles": "quantiles, evenly spaced, whose mean is the utility when acting",
    "central_dim": "hidden units of the central value",
    "channels": "filters of each convolution",
    "compact": "inputs without what never changes in this kitchen; false: whole images, which a cnn needs",
    "double_q": "the online network chooses the next actions, else the target network",
    "embed_dim": "width of the mixing layer, or of the joint value's hidden layers",
    "entropy": "the policy's entropy: the sum over actions, or the log-probability of a sampled one",
    "exploration": "how actions are chosen in training",
    "half_weights": "rows where Q_tot lies between the OPT's sum and its target count half",
    "hidden_dim": "units of the agent's hidden layers",
    "hypernet_dim": "hidden units of the networks that make weights from the state",
    "hypernet_layers": "Linear layers that make the mixing weights: 1, or 2",
    "inputs": "what the joint value reads besides the state: the agents' features and actions, or actions alone",
    "kernel_dim": "hidden units of the kernels",
    "layers": "Linear layers of each kernel, or of the joint value",
    "local_ratio": "weight of an agent's own collisions in its reward, against the team's distances",
    "low_weight": "of a row whose value is thought too high",
    "mask_dead": "leave out agents that have no choice to make",
    "max_steps": "time limit of an episode, env steps",
    "nonoptimal_weight": "of the loss that keeps the sum of utilities above the joint value",
    "num_agents": "agents",
    "num_cosines": "cosines that tell a quantile's fraction",
    "num_heads": "attention heads",
    "num_kernels": "attention kernels over joint actions",
    "num_landmarks": "landmarks",
    "num_quantiles": "quantiles of each agent's return in a gradient step",
    "optimal_weight": "of the loss that holds the sum of utilities to the joint value at the greedy actions",
    "payoff": "reward of each joint action: nested lists, an axis per agent; []: the paper's Table 1",
    "residual": "add the input to the output",
    "see_enemy_actions": "observations hold the enemies' last actions",
    "sight_range": "how far allied units see, map units; null: as far as their type does; 0: themselves alone",
    "simulator": "SMAX's rules as batched arithmetic, or JaxMARL's own, slower code; the results are the same",
    "target_per": "the entropy target counts the agents alive, or the whole team",
    "target_quantiles": "quantiles of the targets",
    "team_reward": "of the agents' rewards",
    "time_limit": "env steps after which an episode is cut; null: the environment's own limit",
    "unit_types": "of a race: all three, weights 0.45 0.45 0.1, or the two that JaxMARL has, equally often",
    "value_dim": "hidden units of the state value that the mixer adds",
    "walls_cause_death": "a unit that leaves the map dies",
    "weighted": "heads are weighed by the state, else equally",
    "weighted_head": "utilities are scaled and shifted by the state first",
    "weighting": "which rows count in full: central (CW-QMIX), or optimistic (OW-QMIX)",
    "width": "units between the two layers",
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

Exit codes: 0 success; 2 wrong configuration; 130 Ctrl-C and 143 SIGTERM, after saving a checkpoint; 1 crash."""


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
    for key, default in part.defaults().items():
        allowed = part.options[key]
        values = f" ({' or '.join(allowed)})" if isinstance(allowed, OneOf) else ""
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
        lines.append(_line(f"    {path}.{key}={shown}", OPTION_MEANINGS.get(key, "") + values))
    return "\n".join(lines)
