"""The evaluation command on a run that was really trained: what it reports, refuses and draws."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from meigm_jax import envs
from meigm_jax.config import to_dict
from meigm_jax.envs import matrix
from meigm_jax.evaluate import main
from meigm_jax.runs.loop import run
from meigm_jax.train import configure

REPOSITORY = Path(__file__).resolve().parents[1]
WRONG = [  # arguments -> what the one line must say
    ("", "the following arguments are required: RUN"),
    ("nowhere", "run: 'nowhere' is not a run directory (it has no config.yaml)"),
    ("{empty}", "run: '{empty}' has no checkpoint yet"),
    ("{run} --policy random", "argument --policy: invalid choice: 'random' (choose from 'greedy', 'sampled', 'mode')"),
    ("{run} --checkpoint last", "argument --checkpoint: invalid choice: 'last'"),
    ("{run} --episodes 0", "episodes: expected an integer from 1 to 10000000, got 0"),
    ("{run} --episodes many", "argument --episodes: invalid int value: 'many'"),
    ("{run} --episodes 1.5", "argument --episodes: invalid int value: '1.5'"),
    ("{run} --episodes inf", "argument --episodes: invalid int value: 'inf'"),
    ("{run} --seed 9", "seed: '{run}' has the seeds 3 to 4, got 9"),
    ("{run} --evaluation-seed -1", "evaluation-seed: expected an integer from 0 to 2^31 - 1, got -1"),
    ("{run} --episode 3", "unknown option '--episode'; did you mean --episodes, "),
    ("{run} --gif a.png", "gif: expected a file name that ends in .gif, got 'a.png'"),
    ("{run} --gif nowhere/a.gif", "gif: there is no folder 'nowhere'"),
    ("{run} --gif a.gif", "gif: matrix_game has no drawing"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    command = ["+env=matrix_game", "+experiment=smoke", "algo=qmix", "seed=3", "log.progress=false"]
    run(configure(*command, "env.reward_scale=0.5", f"run_dir={run_dir}"))
    return run_dir


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """What the command prints with --json."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_newest_learners_get_what_the_run_ended_with(trained, capsys):
    summary = json.loads((trained / "summary.json").read_text())
    found = report(capsys, trained, "--checkpoint", "newest", "--episodes", "5e0")
    assert (found["env"], found["algo"], found["checkpoint"]) == ("matrix_game", "qmix", "newest")
    assert (found["env_steps"], found["policy"], found["episodes"]) == (summary["env_steps"], "greedy", 5)
    assert [(each["seed"], each["member"]) for each in found["seeds"]] == [(3, 0), (4, 1)]
    returns = [each["final"]["greedy"]["return"] for each in summary["seeds"]]  # the game and the policy are certain
    assert [each["return"] for each in found["seeds"]] == [{"mean": x, "low": x, "high": x} for x in returns]
    assert found["all"]["interval_over"] == "seeds" and found["all"]["return"]["mean"] == np.mean(returns)
    assert found["all"]["episode_length"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_the_best_learners_are_the_default(trained, capsys):
    facts = json.loads((trained / "checkpoints" / "best" / "manifest.json").read_text())
    found = report(capsys, trained)
    assert (found["checkpoint"], found["env_steps"]) == ("best", facts["env_steps"])
    assert found["all"]["return"]["mean"] == facts["return"]
    assert found["episodes"] == 8  # the run's evaluation.final_episodes


def test_a_killed_run_is_evaluated_at_its_newest_intact_checkpoint(trained, tmp_path, capsys):
    killed = Path(shutil.copytree(trained, tmp_path / "killed", symlinks=True))
    (killed / "summary.json").unlink()
    shutil.copytree(killed / "checkpoints" / "256", killed / "checkpoints" / "999")
    for file in (killed / "checkpoints" / "999" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    assert main([str(killed), "--checkpoint", "newest", "--seed", "4", "--episodes", "2"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: checkpoint 999 is not intact and is skipped")
    head, intervals, empty, names, *rows = out.splitlines()
    assert head == f"{killed}: matrix_game, qmix, newest checkpoint at 2048 env steps"
    assert intervals.endswith("95 % intervals over episodes, of all over episodes") and empty == ""
    assert names.split() == ["seed", "return", "episode", "length"]
    assert [row.split()[0] for row in rows] == ["4", "all"]
    assert rows[0].split()[1:] == rows[1].split()[1:]


def test_the_same_command_gives_the_same_numbers(trained, capsys):
    # QMIX samples by epsilon-greedy: 5 % of the actions are random at the end, more at the best checkpoint.
    arguments = (trained, "--policy", "sampled", "--episodes", 64)
    first, again = report(capsys, *arguments), report(capsys, *arguments)
    assert first == again
    assert first["all"]["return"]["mean"] != report(capsys, *arguments, "--evaluation-seed", 1)["all"]["return"]["mean"]


def test_the_gif_shows_the_first_episode_that_was_evaluated(trained, in_empty_folder, monkeypatch, capsys):
    drawn, make = [], matrix.make

    def render(env_states):
        drawn.append(len(env_states))
        return [np.full((40, 300, 3), 255, np.uint8) for _ in env_states]

    monkeypatch.setattr(envs, "_made", {})
    monkeypatch.setattr(matrix, "make", lambda name, payoff=(): make(name, payoff)._replace(render=render))
    found = report(capsys, trained, "--policy", "sampled", "--seed", 4, "--episodes", 1, "--gif", "a.gif")
    [seed] = found["seeds"]
    size = (in_empty_folder / "a.gif").stat().st_size
    assert found["gif"] == {
        "file": "a.gif",
        "seed": 4,
        "episode": 0,
        "return": seed["return"]["mean"],
        "episode_length": 1.0,
        "bytes": size,
    }
    assert seed["return"]["low"] is None  # one episode has no interval
    with Image.open(in_empty_folder / "a.gif") as image:
        assert drawn == [2] == [getattr(image, "n_frames", 1)]  # the start and the end
    assert main([str(trained), "--gif", "b.GIF"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("b.GIF: seed 3, episode 0: return ") and last.endswith("1 steps, 1 kB")


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[arguments or "nothing" for arguments, _ in WRONG])
def test_wrong_use_is_one_line(trained, in_empty_folder, tmp_path, arguments, message, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(trained / "config.yaml", empty)
    names = {"run": trained, "empty": empty}
    assert main(arguments.format(**names).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message.format(**names)}") and err.count("\n") == 1
    assert list(in_empty_folder.iterdir()) == []


def command(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "meigm_jax.evaluate", *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    return done, time.monotonic() - start


def test_a_wrong_command_is_answered_within_seconds_by_the_process():
    done, seconds = command("nowhere")
    assert (done.returncode, done.stdout, seconds < 3) == (2, "", True)
    assert done.stderr == "error: run: 'nowhere' is not a run directory (it has no config.yaml)\n"


def test_help_is_answered_within_seconds_and_names_every_option():
    done, seconds = command("--help")
    assert (done.returncode, done.stderr, seconds < 3) == (0, "", True)
    for option in "RUN --episodes --policy --checkpoint --seed --evaluation-seed --gif --json".split():
        assert f"  {option} " in done.stdout


def test_a_command_is_checked_without_importing_jax(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(configure("+env=smax_3m"))))
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    (tmp_path / "checkpoints" / "8" / "manifest.json").touch()
    checked = f"from meigm_jax.evaluate import _parser, check; check(_parser().parse_args([{str(tmp_path)!r}]))"
    code = f"{checked}; import sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout == "False\n"
