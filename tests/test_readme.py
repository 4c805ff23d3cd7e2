"""What README shows, as it stands there: every command and every snippet, in small, or planned, or run elsewhere."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meigm_jax import evaluate, plot, report, train
from meigm_jax.config import run_directory
from meigm_jax.runs import loop
from meigm_jax.train import parse, plan
from tests import fake_train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
LINES = [line for language, text in BLOCKS if not language for line in text.splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]
START = [".venv/bin/python", "-m"]
ELSEWHERE = {  # command -> what runs it, in a fresh clone
    "make train": ".ci/run, in small",
    "make test": ".ci/run",
    "make setup": "Makefile",
    "pip install .": ".ci/wheel",
    "pip install '.[cuda]'": "nothing: it needs an NVIDIA GPU",
    "python slurm.py": "test_hydra_hands_its_jobs_to_the_trainer",
}
[SNIPPET] = [text for _, text in BLOCKS if "run(configure(" in text]
[LOADING] = [text for _, text in BLOCKS if "meigm_jax.load" in text]
[COMPARE] = re.findall(r"^## Compare two algorithms\n(.*?)^## ", README, flags=re.DOTALL | re.MULTILINE)
[ARRAY] = [text for language, text in BLOCKS if language == "bash"]
[HYDRA_APP] = [text for _, text in BLOCKS if "@hydra.main" in text]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def task(number: int, python: str) -> str:
    """The output of one task of the array, where `.venv/bin/python` is the given script."""
    Path(".venv/bin").mkdir(parents=True, exist_ok=True)
    Path(".venv/bin/python").write_text(f"#!/bin/bash\nshift 2\n{python}\n")
    Path(".venv/bin/python").chmod(0o755)
    Path("array.sh").write_text(ARRAY)
    settings = ENVIRONMENT | {"SLURM_ARRAY_TASK_ID": str(number)}
    done = subprocess.run(["bash", "array.sh"], env=settings, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def arguments_of(command: str) -> list[list[str]]:
    """The arguments that README gives to the command `meigm_jax.<command>`, one list per line."""
    return [words[3:] for words in COMMANDS if words[:3] == [*START, f"meigm_jax.{command}"]]


def test_every_block_and_every_command_is_accounted_for():
    assert {language for language, _ in BLOCKS} == {"", "bash", "python"}
    assert {text for language, text in BLOCKS if language == "bash"} == {ARRAY}
    assert {text for language, text in BLOCKS if language == "python"} == {SNIPPET, LOADING, HYDRA_APP}
    elsewhere = [words for words in COMMANDS if words[:2] != START]
    assert len(COMMANDS) == len(elsewhere) + sum(
        len(arguments_of(name)) for name in ("train", "evaluate", "plot", "report")
    )
    for words in elsewhere:
        assert any(shlex.join(words).startswith(known) for known in ELSEWHERE), shlex.join(words)
    ci, makefile = (ROOT / ".ci/run").read_text().splitlines(), (ROOT / "Makefile").read_text()
    assert {"make test", ".ci/wheel"} <= set(ci) and any(line.startswith("make train ") for line in ci)
    assert all(f"\n{words[1]}: " in makefile for words in elsewhere if words[0] == "make")


def test_what_make_train_trains_and_says_can_be_planned():
    lines = re.findall(r"\$\(TRAIN\) (.*)", (ROOT / "Makefile").read_text())
    assert len(lines) == 2
    for line in lines:
        assert plan(parse(line.removesuffix(" $(ARGS)").rstrip('"').split()))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the runs that README speaks of; those of a single run are one, which README's snippet trained."""
    folder = tmp_path_factory.mktemp("world")
    small = SNIPPET.replace('"seeds=3"', '"seeds=2", "+experiment=smoke", "log.progress=false", "run_dir=trained"')
    assert small != SNIPPET
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(small, "README.md", "exec"), {})
        for run in {str(path) for path in re.findall(r"runs/\w+/\w+/\d{4}[\w-]+", README)}:
            shutil.copytree("trained", run)
    assert re.fullmatch(r"\[-?[\d.]+, -?[\d.]+\]", out.getvalue().splitlines()[-1])
    return folder


def test_training_commands_name_what_there_is(monkeypatch, world):
    def stub(config, resume=None):
        return {"seeds": [{"hyper": {}, "final": {"greedy": {"return": 0.0}}}]}

    monkeypatch.setattr(loop, "run", stub)
    monkeypatch.setattr(loop, "check", lambda config, resume=None, memory=True: None)
    monkeypatch.chdir(world)
    found = arguments_of("train")
    assert len(found) >= 8
    for arguments in found:  # in their order: a sweep leaves its plan to the line that resumes it
        assert train.main(arguments) == 0, arguments


def test_evaluation_commands_name_what_there_is(world, monkeypatch, capsys):
    """The first line in full; the others, whose pictures this small game does not have, are drawn in .ci/run."""
    monkeypatch.chdir(world)
    first, *others = [evaluate._parser().parse_args(arguments) for arguments in arguments_of("evaluate")]
    ci = (ROOT / ".ci/run").read_text()
    for options in others:
        evaluate.check(options)
        assert f"--policy {options.policy} --gif " in ci
    assert evaluate.main([str(first.run), "--episodes", str(first.episodes)]) == 0
    assert f"{first.episodes} episodes per seed" in capsys.readouterr().out


def test_plotting_commands_write_what_they_say(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    found = [arguments for arguments in arguments_of("plot") if "runs/first" not in arguments]
    assert len(found) == 3
    for arguments in found:
        assert plot.main(arguments) == 0
        out = Path(arguments[arguments.index("--out") + 1])
        assert f"wrote {out}" in capsys.readouterr().out and out.stat().st_size > 1000


def test_reporting_commands_write_what_they_say(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    found = arguments_of("report")
    assert len(found) == 2
    for arguments in found:
        assert report.main(arguments) == 0
        out = Path(arguments[arguments.index("--out") + 1] if "--out" in arguments else "report.html")
        assert f"wrote {out}" in capsys.readouterr().out and out.read_text().startswith("<!DOCTYPE html>")


def test_two_algorithms_are_compared_as_shown(monkeypatch, capsys):
    monkeypatch.setattr(loop, "check", loop.check)
    monkeypatch.setattr(loop, "run", loop.run)
    fake_train.install(0)
    [training] = [arguments for arguments in arguments_of("train") if "run_dir=runs/first" in arguments]
    [drawing] = [arguments for arguments in arguments_of("plot") if "runs/first" in arguments]
    assert train.main([*fake_train.SIZES, *training]) == 0
    said = capsys.readouterr().out
    assert f"curves: python -m meigm_jax.plot {shlex.join(drawing)}\n" in said
    for run in re.findall(r"`(runs/first/[\w/]+)`", COMPARE):
        assert (Path(run) / "config.yaml").exists() and run in said
    assert plot.main(drawing) == 0 and (Path(drawing[-1])).read_bytes().startswith(b"\x89PNG")
    assert re.search(r"qmix \(5 seeds\).*qmix \(5 seeds\)", capsys.readouterr().out)


def test_hydra_is_given_overrides_that_there_are():
    [line] = [words for words in COMMANDS if words[:2] == ["python", "slurm.py"]]
    assert line[2] == "--multirun"
    overrides = [override.split("=") for override in line[3:] if not override.startswith("hydra")]
    for values in itertools.product(*(value.split(",") for _, value in overrides)):
        assert len(plan(parse([f"{key}={value}" for (key, _), value in zip(overrides, values, strict=True)]))) == 1


def test_the_tasks_of_the_job_array_are_all_combinations():
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", ARRAY).groups())
    runs = set()
    for number in range(first, last + 1):
        [job] = plan(parse(task(number, r'printf "%s\n" "$@"').splitlines()))
        runs.add((str(run_directory(job.config)), job.config.seed))
    assert runs == {
        (f"runs/paper/{env}/{algo}/seed{seed}", seed)
        for env in ("smax_3m", "smax_8m")
        for algo in ("qmix", "me_qmix")
        for seed in (0, 5)
    }


SHORT = "env.options.max_steps=3"  # episodes that fit into the small trainer's chunks


def test_a_task_of_the_job_array_trains_and_goes_on_when_it_is_submitted_again():
    command = f'exec {sys.executable} -m tests.fake_train 0 "$@" {SHORT}'
    task(6, command)
    summary = json.loads(Path("runs/paper/smax_3m/me_qmix/seed5/summary.json").read_text())
    assert [seed["seed"] for seed in summary["seeds"]] == [5, 6, 7, 8, 9]
    assert "nothing to do: runs/paper/smax_3m/me_qmix/seed5 has 160 env steps" in task(6, command)


def test_hydra_hands_its_jobs_to_the_trainer():
    Path("app.py").write_text(HYDRA_APP)
    start = "import runpy, tests.fake_train as fake; fake.install(0); runpy.run_path('app.py', run_name='__main__')"
    sizes = "from tests.fake_train import SIZES; print(*(f'+{size}' for size in SIZES))"
    sizes = subprocess.check_output([sys.executable, "-c", sizes], env=ENVIRONMENT, text=True).split()
    options = ["hydra/job_logging=disabled", "hydra.sweep.dir=out", "+env=smax_3m", "+algo=qmix,vdn", "+seed=3"]
    subprocess.run(
        [sys.executable, "-c", start, "--multirun", *options, *sizes, f"+{SHORT}"], env=ENVIRONMENT, check=True
    )
    found = [json.loads(path.read_text()) for path in sorted(Path("out").glob("*/run/summary.json"))]
    assert [(each["algo"], each["seeds"][0]["seed"]) for each in found] == [("qmix", 3), ("vdn", 3)]


def test_every_interval_is_on_a_page_of_results():
    pages = [path.read_text() for path in (ROOT / "experiments/results").rglob("README.md")]
    intervals = re.findall(r"-?\d+\.\d+ \[-?[\d.]+, -?[\d.]+\]", " ".join(README.split()))
    assert intervals
    for interval in intervals:
        assert any(interval in page for page in pages), interval
