"""`--dry-run` tells what a run would be and take, and does nothing."""

import json
import re
from pathlib import Path

import pytest
import yaml

from meigm_jax.config import to_dict
from meigm_jax.runs import dry_run, loop, machine
from meigm_jax.runs.cost import Rates
from meigm_jax.runs.dry_run import human_time
from meigm_jax.train import configure, main

SMOKE = ["+env=matrix_game", "+experiment=smoke", "seeds=3", "name=new"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "measure", lambda: Rates(flops=1e9, kernel_seconds=1e-6))
    monkeypatch.setattr(loop, "run", lambda *_, **__: pytest.fail("a dry run trained"))
    return tmp_path


def config_of(*arguments: str):
    return configure(*SMOKE, *arguments)


def parts(out: str) -> tuple[dict, list[str]]:
    """The configuration and the lines behind it."""
    text, _, rest = out.partition("\nrun 1 of ")
    return yaml.safe_load(text), [line.strip() for line in rest.splitlines()]


def test_a_dry_run_tells_everything_and_writes_nothing(in_empty_folder, capsys):
    assert main(["--dry-run", *SMOKE]) == 0
    tree, lines = parts(capsys.readouterr().out)
    assert tree == to_dict(config_of())
    assert lines[0] == "1: runs/matrix_game/me_qmix/new"
    assert re.match(r"replay: .*\(3 x 16 sequences\) on (3 x )?cpu, ", lines[1])  # one each, where there are more cores
    # agent: encoder (1 + 3 + 2) x 64 + 64, GRU 2 x 3 gates of 64 x 64 with 3 + 1 biases of 64, head 64 x 3 + 3
    agent = 6 * 64 + 64 + 6 * 64 * 64 + 4 * 64 + 64 * 3 + 3
    assert f"(agent {agent}, mixer " in lines[2] and lines[2].endswith("for each of 3 seeds")
    assert lines[3].startswith("checkpoints: up to about ")
    assert lines[4] == "of each seed: 256 iterations of 8 env steps, 512 gradient steps, evaluations: 2"
    assert lines[5].startswith("time: about ")
    assert list(in_empty_folder.iterdir()) == []


def test_the_flag_may_stand_anywhere_and_several_runs_are_summed_up(capsys):
    assert main([*SMOKE, "--dry-run", "algo=me_qmix,qmix"]) == 0
    out = capsys.readouterr().out
    tree, _ = parts(out)
    assert tree == to_dict(config_of())
    again, _, rest = out.partition("run 1 of 2: runs/matrix_game/me_qmix/new")[2].partition("\nrun 2 of 2: ")
    assert yaml.safe_load(again[again.index("algo:") :]) == {
        "algo": {
            "name": "qmix",
            "rule": {"name": "value_decomposition"},
            "opt": None,
            "temperature": None,
        }
    }
    assert rest.startswith("runs/matrix_game/qmix/new\n") and "all 2 runs, one after the other: about " in rest


@pytest.mark.parametrize("arguments", [["+env=matrix_game", "gamma=1"], ["+env=smax_3m", "train.chunk_length=50"]])
def test_what_is_wrong_is_answered_as_without_it(arguments, capsys):
    assert main(arguments) == 2
    wrong = capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 2
    assert capsys.readouterr() == wrong


def test_a_replay_that_does_not_fit_is_told_with_the_rest(monkeypatch, capsys):
    monkeypatch.setattr(machine, "free_memory", lambda device: 2**10)
    assert main([*SMOKE, "--dry-run", "algo=qmix,vdn"]) == 2
    out, err = capsys.readouterr()
    assert out.count("does not fit: replay.capacity: the replay needs") == 2 and out.count("  time: about ") == 2
    assert err.startswith("error: replay.capacity: the replay needs") and err.count("\n") == 1


def finished_run(run_dir: Path, speed: float, *arguments: str) -> None:
    run_dir.mkdir(parents=True)
    config = config_of(*arguments)
    (run_dir / "config.yaml").write_text(yaml.safe_dump({**to_dict(config), "versions": machine.versions(config)}))
    (run_dir / "summary.json").write_text(json.dumps({"env_steps_per_second": speed}))


def seconds_of(monkeypatch, *arguments: str) -> float:
    """What a dry run takes for the time of all its runs."""
    told = []
    monkeypatch.setattr(dry_run, "human_time", lambda seconds: told.append(seconds) or "")
    assert main([*SMOKE, "--dry-run", *arguments]) == 0
    return told[-1]


def test_the_newest_earlier_run_beside_it_sets_the_speed(monkeypatch, capsys):
    folder = Path("runs/matrix_game/me_qmix")
    options = ["total_env_steps=20480"]
    estimated = seconds_of(monkeypatch, *options)
    finished_run(folder / "slow", 1000.0, "seeds=2")
    slow = seconds_of(monkeypatch, *options)
    assert slow > 3 * 20480 / 1000.0  # evaluations come on top
    assert ", from the 1000 env steps/s of runs/matrix_game/me_qmix/slow" in capsys.readouterr().out
    finished_run(folder / "fast", 4000.0)
    assert seconds_of(monkeypatch, *options) == pytest.approx(slow / 4)
    finished_run(folder / "other", 1.0, "algo=qmix")  # of no help: another algorithm, another device, damaged
    finished_run(folder / "elsewhere", 1.0)
    text = (folder / "elsewhere/config.yaml").read_text()
    (folder / "elsewhere/config.yaml").write_text(text.replace("device: cpu", "device: H100"))
    finished_run(folder / "damaged", 1.0)
    (folder / "damaged/summary.json").write_text("{")
    assert seconds_of(monkeypatch, *options) == pytest.approx(slow / 4)
    assert estimated != pytest.approx(slow / 4)


def test_a_resumed_run_counts_what_is_left(monkeypatch, capsys, in_empty_folder):
    whole = seconds_of(monkeypatch)
    finished_run(Path("old"), 1.0)
    Path("old/summary.json").unlink()
    for iteration in (64, 128):
        Path(f"old/checkpoints/{iteration}").mkdir(parents=True)
        Path(f"old/checkpoints/{iteration}/manifest.json").write_text("{}")
    Path("old/checkpoints/200").mkdir()  # not finished
    told = []
    monkeypatch.setattr(dry_run, "human_time", lambda seconds: told.append(seconds) or "")
    capsys.readouterr()
    assert main(["resume=old", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "left for each seed: 128 iterations of 8 env steps, 256 gradient steps, evaluations: 1" in out
    assert 0.4 * whole < told[-1] < 0.6 * whole
    assert sorted(path.name for path in Path("old").iterdir()) == ["checkpoints", "config.yaml"]


def test_more_work_takes_longer(monkeypatch):
    times = [
        seconds_of(monkeypatch, *options)
        for options in (["seeds=1"], ["seeds=3"], ["train.updates_per_chunk=16"], ["algo.agent.hidden_dim=256"])
    ]
    assert times[1] == pytest.approx(3 * times[0])
    assert times[2] > 3 * times[1] and times[3] > 3 * times[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (99.7, "100 s"), (100, "1.7 min"), (5990, "100 min"), (7200, "2 h"), (1e6, "12 days")],
)
def test_times_are_easy_to_read(seconds, text):
    assert human_time(seconds) == text
