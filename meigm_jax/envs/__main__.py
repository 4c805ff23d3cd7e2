"""The table of environments: `python -m meigm_jax.envs [NAME ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from meigm_jax import envs
from meigm_jax.arguments import Parser, exit_code

HEADINGS = ("environment", "agents", "actions", "observation", "state", "limit", "win")
NOTES = """\
Sizes are of the bare environment with its default options: actions and numbers of each agent, numbers of the global
state, and the env steps of the longest possible episode. Any JaxMARL environment with discrete actions can be named by
its id, jaxmarl_MPE_simple_reference_v3. Exit codes: 0 success; 2 wrong use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table that the arguments ask for and return the exit code: 0, 2 for wrong use, 130 on Ctrl-C."""
    return exit_code(lambda: _answer(_parser().read(argv).names))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m meigm_jax.envs",
        description="List environments: their sizes, time limit and what a win is.",
        epilog=NOTES,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="environments, such as smax_3m (default: all)")
    return parser


def _answer(names: Sequence[str]) -> int:
    names = names or [name for name in envs.NAMES if name != envs.BY_ID]
    for name in names:
        envs.suite_of(name)  # a wrong name is told before anything is built
    print(table(names))
    return 0


def table(names: Sequence[str]) -> str:
    """One line for each of the environments, in aligned columns. Raises ConfigError on an unknown name."""
    rows = [HEADINGS, *(_row(name) for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _row(name: str) -> tuple[str, ...]:
    spec = envs.make(name).spec
    sizes = (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim, spec.episode_limit)
    return name, *map(str, sizes), spec.win


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *sizes, win = row
    numbers = (size.rjust(width) for size, width in zip(sizes, widths[1:-1], strict=True))
    return "  ".join([name.ljust(widths[0]), *numbers, win]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
