"""The table of environments, as a user sees it."""

from __future__ import annotations

import pytest

from meigm_jax import envs
from meigm_jax.envs.__main__ import main


def test_sizes_limit_and_win(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smax_3m", "smax_terran_20v23", "jaxmarl_MPE_simple_reference_v3"]) == 0
    assert [line.split(maxsplit=6) for line in capsys.readouterr().out.splitlines()] == [
        ["environment", "agents", "actions", "observation", "state", "limit", "win"],
        ["smax_3m", "3", "8", "75", "72", "101", "all enemies dead, an ally alive"],
        # 42 other units with 7 numbers and 3 types, 4 and 3 of its own; a unit with 4, 3 and 2 in the state.
        ["smax_terran_20v23", "20", "28", str(42 * 10 + 7), str(43 * 9), "101",
         "all enemies dead, an ally alive; medivacs do not count"],
        ["jaxmarl_MPE_simple_reference_v3", "2", "50", "21", "42", "26"],
    ]  # fmt: skip


def test_every_environment_has_its_line_in_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name in envs.NAMES if name != envs.BY_ID]
    ends = [heading.index(word) + len(word) for word in ("agents", "actions", "observation", "state", "limit")]
    for line in lines:
        assert all(line[end - 1].isdigit() and line[end] == " " for end in ends)
        assert line.split(maxsplit=6)[6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smax_3n"], "env.name: unknown environment 'smax_3n'; did you mean smax_3m"),
        (["smax_3m", "jaxmarl_nothing"], "env.id: JaxMARL has no environment 'nothing'"),
        (["--all"], "unknown option '--all'; did you mean --help?"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"error: {message}") and shown.err.count("\n") == 1
