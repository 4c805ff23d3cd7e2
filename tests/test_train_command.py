"""The training command seen from outside: what it refuses, in which words, and what it hands to the loop."""

from __future__ import annotations

import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import yaml

from meigm_jax import usage
from meigm_jax.config import REGISTRIES, Config, to_dict
from meigm_jax.envs import SUITES
from meigm_jax.registry import ConfigError
from meigm_jax.train import configure, main

REPOSITORY = Path(__file__).resolve().parents[1]
ENV = "+env=smax_3m"
WRONG = [  # arguments -> what the one line must say
    ("", "missing +env=NAME; environments: jaxmarl, matrix_game, mpe_simple_spread"),
    ("algo=qmix", "missing +env=NAME"),
    ("+env=smax_5v6", "env: unknown name 'smax_5v6'; did you mean smax_5v5"),
    ("+env=", "env: unknown name ''"),
    (f"{ENV},smax_9m", "env: unknown name 'smax_9m'"),
    (f"{ENV} algo=me_qmx", "algo: unknown name 'me_qmx'; did you mean me_qmix"),
    (f"{ENV} algo=qmix,me_qmx", "algo: unknown name 'me_qmx'"),
    (f"{ENV} +experiment=fast", "experiment: unknown name 'fast'"),
    (f"{ENV} gama=1", "unknown key 'gama'"),
    (f"{ENV} hyper.gama=1", "unknown key 'hyper.gama'; did you mean gamma"),
    (f"{ENV} +hyper.gama=1", "unknown key 'hyper.gama'"),
    (f"{ENV} ++hyper.gama=1", "unknown key 'hyper.gama'"),
    (f"{ENV} train.replay.capacity=1", "unknown key 'train.replay'"),
    (f"{ENV} seed.x=1", "unknown key 'seed.x'; seed is not a section"),
    (f"{ENV} hydra.run.dir=x", "unknown key 'hydra'"),
    (f"{ENV} suite=smax", "unknown key 'suite'"),
    (f"{ENV} hyper.gamma=abc", "hyper.gamma: expected float, got 'abc'"),
    (f"{ENV} hyper.gamma=", "hyper.gamma: expected float, got ''"),
    (f"{ENV} hyper.gamma=1.5", "hyper.gamma: expected a number from 0 to 1, got 1.5"),
    (f"{ENV} seeds=0", "seeds: expected an integer of at least 1, got 0"),
    (f"{ENV} seeds=1.5", "seeds: expected int, got 1.5"),
    (f"{ENV} seeds=true", "seeds: expected int, got True"),
    (f"{ENV} seeds=1,2", "seeds: several values are possible for"),
    (f"{ENV} train=null", "train: expected a section, got None"),
    (f"{ENV} hyper.gamma=[1", "cannot read 'hyper.gamma=[1'"),
    (f"{ENV} algo.mixer.name=qmx", "algo.mixer.name: unknown name 'qmx'; did you mean qmix"),
    (f"{ENV} algo.mixer.embd_dim=3", "unknown key 'algo.mixer.embd_dim'; did you mean embed_dim"),
    (f"{ENV} algo.opt.name=identity algo.opt.width=3", "unknown key 'algo.opt.width'"),
    (f"{ENV} algo.agent.hidden_dim=0", "algo.agent.hidden_dim: expected an integer of at least 1, got 0"),
    (f"{ENV} env.options.max_steps=soon", "env.options.max_steps: expected int, got 'soon'"),
    (f"{ENV} env.options.payoff=[[1]]", "unknown key 'env.options.payoff'"),
    ("+env=matrix_game env.options.payoff=[[1,2]]", "env.options.payoff: expected"),
    (f"{ENV} wandb.mode=on", "wandb.mode: expected one of disabled, online, offline, got 'on'"),
    (f"{ENV} name=a/b", "name: expected the name of a folder"),
    ("train", "cannot read 'train': expected key=value"),
    ("--env=smax_3m", "cannot read '--env=smax_3m': expected key=value"),
    ("~algo", "cannot read '~algo': expected key=value"),
    ("resume=nowhere", "resume: 'nowhere' is not a run directory"),
]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path | None]]:
    """What the command hands to the loop, whose place is taken."""
    started: list[tuple[Config, Path | None]] = []
    loop = types.ModuleType("meigm_jax.runs.loop")
    summary = {"seeds": [{"hyper": {}, "final": {"greedy": {"return": 0.0}}}]}
    loop.run = lambda config, resume=None: started.append((config, resume)) or summary  # type: ignore[attr-defined]
    loop.check = lambda config, resume=None, memory=True: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meigm_jax.runs.loop", loop)
    return started


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, "-m", "meigm_jax.train", *arguments], capture_output=True, text=True, env=path, timeout=60
    )


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[arguments or "nothing" for arguments, _ in WRONG])
def test_wrong_commands_are_one_line(
    arguments: str, message: str, runs: list, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert runs == [] and list(in_empty_folder.iterdir()) == []


def test_a_wrong_command_is_answered_within_seconds_by_the_process(in_empty_folder: Path) -> None:
    start = time.monotonic()
    done = command(ENV, "hyper.gama=1")
    assert time.monotonic() - start < 3
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'hyper.gama'; did you mean gamma?\n"
    assert list(in_empty_folder.iterdir()) == []


def test_help_is_answered_within_seconds() -> None:
    start = time.monotonic()
    done = command("--help")
    assert time.monotonic() - start < 3
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == usage.usage() + "\n"


def test_a_command_is_checked_without_importing_jax() -> None:
    checked = "from meigm_jax.train import parse, plan; plan(parse(['+env=smax_3m']))"
    code = f"{checked}; import sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout == "False\n"


def test_help_names_every_option_with_its_default_and_a_meaning() -> None:
    described = {}
    for line in usage.usage().splitlines():
        assignment, _, meaning = line.strip().partition(" ")
        key, equals, value = assignment.partition("=")
        if equals:
            described[key] = (value, meaning.strip())
    config = to_dict(configure(ENV))
    keys = {f"{section}.{key}" for section, values in config.items() if isinstance(values, dict) for key in values}
    keys |= {key for key, value in config.items() if not isinstance(value, dict)}
    keys |= {f"{path}.name" for path in REGISTRIES} - set(REGISTRIES)
    missing = keys - set(REGISTRIES) - described.keys()
    assert missing == set()
    assert [key for key, (_, meaning) in described.items() if not meaning] == []
    assert described["hyper.gamma"] == ("0.99", "discount per env step")


def test_help_names_every_option_of_every_part() -> None:
    parts = [("env.options", part) for part in SUITES.values()]
    parts += [(path, part) for path, registry in REGISTRIES.items() for part in registry.values()]
    text = usage.usage()
    for path, part in parts:
        for name, option in part.options.items():
            assert f" {path}.{name}=" in text
            assert option.meaning and option.meaning in " ".join(text.split())
    assert usage.PART_MEANINGS.keys() == REGISTRIES.keys()


def test_help_names_environments_algorithms_and_fits_a_terminal() -> None:
    words = usage.usage().split()
    for group in usage.GROUPS:
        assert set(usage.choices(group)) <= set(words)
    assert max(map(len, usage.usage().splitlines())) <= 120


def test_examples_in_the_help_are_right(runs: list) -> None:
    for line in usage.EXAMPLES.splitlines():
        arguments = line.partition("  # ")[0].split()[3:]
        if not arguments[0].startswith("resume="):
            assert main(arguments) == 0
    assert len(runs) == 7


@pytest.mark.parametrize("argument", ["+env=smax_3m", "env=smax_3m", "++env=smax_3m"])
def test_the_plus_is_not_needed(argument: str, runs: list) -> None:
    assert main([argument]) == 0
    assert [config.env.name for config, _ in runs] == ["smax_3m"]


def test_several_values_run_one_after_the_other(runs: list) -> None:
    assert main(["algo=qmix,me_qmix", "+env=smax_3m,smax_8m", "seeds=2"]) == 0
    assert [(config.env.name, config.algo.name, config.seeds) for config, _ in runs] == [
        (env, algo, 2) for algo in ("qmix", "me_qmix") for env in ("smax_3m", "smax_8m")
    ]


def test_paths_are_taken_as_they_are(runs: list) -> None:
    assert main([ENV, "run_dir=out/a b[x=1],{c}", "name=2026-11-20_101500"]) == 0
    assert (runs[0][0].run_dir, runs[0][0].name) == ("out/a b[x=1],{c}", "2026-11-20_101500")


def test_an_error_of_the_loop_is_one_line(runs: list, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(config: Config, resume: Path | None = None) -> None:
        raise ConfigError("replay.capacity: 10 GB\ndo not fit")

    sys.modules["meigm_jax.runs.loop"].run = refuse  # type: ignore[attr-defined]
    assert main([ENV]) == 2
    assert capsys.readouterr().err == "error: replay.capacity: 10 GB do not fit\n"


def test_an_interrupt_before_the_loop_takes_over_exits_with_130(runs: list) -> None:
    def interrupt(config: Config, resume: Path | None = None) -> None:
        raise KeyboardInterrupt

    sys.modules["meigm_jax.runs.loop"].run = interrupt  # type: ignore[attr-defined]
    assert main([ENV]) == 130


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    path = tmp_path / "run=1, old"
    path.mkdir()
    config = configure(ENV, "algo=qmix", "seeds=3", "total_env_steps=1e6", "hyper.gamma=0.9")
    (path / "config.yaml").write_text(yaml.safe_dump(to_dict(config) | {"versions": {"jax": "0.12"}}))
    return path


def test_resume_reads_the_run_and_takes_what_may_change(run_directory: Path, runs: list) -> None:
    assert main([f"resume={run_directory}", "total_env_steps=2e6", "log.progress=false", "wandb.mode=offline"]) == 0
    config, resume = runs[0]
    assert resume == run_directory
    assert (config.env.name, config.algo.name, config.seeds, config.hyper["gamma"]) == ("smax_3m", "qmix", 3, 0.9)
    assert (config.total_env_steps, config.log.progress, config.wandb.mode) == (2_000_000, False, "offline")


def test_resume_may_repeat_what_the_run_has(run_directory: Path, runs: list) -> None:
    assert main([f"resume={run_directory}", ENV, "algo=qmix", "hyper.gamma=0.9"]) == 0
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("hyper.gamma=0.8", "hyper.gamma: cannot change on resume (0.9"),
        ("seeds=4", "seeds: cannot change on resume (3"),
        ("algo=me_qmix", "algo.name: cannot change on resume (qmix"),
        ("+env=smax_8m", "env.name: cannot change on resume (smax_3m"),
        ("evaluation.interval=5", "evaluation.interval: cannot change on resume"),
        ("algo.mixer.embed_dim=64", "algo.mixer.embed_dim: cannot change on resume (32"),
        ("total_env_steps=1e5", "total_env_steps: can only grow on resume (1000000"),
        ("log.intervall=5", "unknown key 'log.intervall'; did you mean interval"),
        ("+experiment=quick", "unknown key 'experiment'"),
    ],
)
def test_resume_refuses_what_changes_results(
    run_directory: Path, runs: list, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"resume={run_directory}", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert runs == [] and [path.name for path in run_directory.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("content", ["", "[1]", "seed: [", "seed: 1", "\x00"])
def test_resume_refuses_a_damaged_configuration(
    run_directory: Path, runs: list, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_directory / "config.yaml").write_text(content)
    assert main([f"resume={run_directory}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: resume: cannot use") and "config.yaml" in err and err.count("\n") == 1
    assert runs == []


def test_nothing_starts_when_any_of_several_runs_cannot(runs: list, tmp_path: Path, capsys) -> None:
    def check(config: Config, resume: Path | None = None, memory: bool = True) -> None:
        if config.env.name == "smax_8m":
            raise ConfigError("train.chunk_length: expected at least the episode limit")

    sys.modules["meigm_jax.runs.loop"].check = check  # type: ignore[attr-defined]
    assert main(["+env=smax_3m,smax_8m"]) == 2
    assert "train.chunk_length" in capsys.readouterr().err
    assert runs == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("hyper.epsilon_end=0.1", "warning: hyper.epsilon_end makes no difference to me_qmix\n"),
        ("hyper.epsilon_end=0.1 algo=me_qmix,qmix", ""),
        ("hyper.alpha_lr=0.1 algo=vdn,qmix", "warning: hyper.alpha_learning_rate makes no difference to vdn, qmix\n"),
        ("hyper.gamma=0.9", ""),
    ],
)
def test_a_number_that_makes_no_difference_is_a_warning(runs: list, capsys, arguments: str, expected: str) -> None:
    assert main([ENV, *arguments.split()]) == 0
    warned = capsys.readouterr().err
    assert warned.startswith(expected) and bool(warned) == bool(expected)
