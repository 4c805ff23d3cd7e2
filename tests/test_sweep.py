"""Several runs of one command: where they go, going on as a whole, and what one of them can do to the others."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from meigm_jax import sweep
from meigm_jax.config import Config, run_directory
from meigm_jax.registry import ConfigError
from meigm_jax.runs import loop, machine
from meigm_jax.train import main, parse, plan
from tests.fake_train import SIZES
from tests.runs import fake

ROOT = Path(__file__).parents[1]
TWO = ["+env=matrix_game", "algo=qmix,vdn", *SIZES]
TRAINER = fake.make_trainer(fake.small_config(Path("unused")), 3)
REAL_RUN = loop.run


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Trained(list):
    """The runs that have been handed to the loop, as (run directory, whether resumed); `fail` raises in their place."""

    def fail(self, config: Config) -> None: ...

    def __call__(self, config, resume=None):
        self.append((str(run_directory(config)), resume is not None))
        self.fail(config)
        return REAL_RUN(config, resume, lambda *_: TRAINER)


@pytest.fixture
def trained(monkeypatch):
    """The command trains with the trainer in miniature."""
    found = Trained()
    monkeypatch.setattr(loop, "run", found)
    monkeypatch.setattr(loop, "check", lambda config, resume=None, memory=True: None)
    monkeypatch.setattr(sweep, "_free_memory", lambda: None)  # all tests share the compiled trainer
    return found


def directories(*arguments: str) -> list[str]:
    return [str(run_directory(job.config)) for job in plan(parse(arguments))]


def rows_of(run_dir: str) -> list[dict]:
    rows = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_time"} for row in rows]


def test_run_directories_of_several_runs():
    two = ("+env=smax_3m", "algo=qmix,vdn")
    assert directories(*two, "run_dir=out/a b") == ["out/a b/smax_3m/qmix", "out/a b/smax_3m/vdn"]
    assert directories(*two, "name=n") == ["runs/smax_3m/qmix/n", "runs/smax_3m/vdn/n"]
    experiments = ("+env=smax_3m", "+experiment=quick,smoke")
    assert directories(*experiments, "name=n") == ["runs/smax_3m/me_qmix/n_quick", "runs/smax_3m/me_qmix/n_smoke"]
    assert directories(*experiments, "run_dir=x") == ["x/smax_3m/me_qmix/quick", "x/smax_3m/me_qmix/smoke"]
    assert directories("+env=smax_3m", "+experiment=smoke", "run_dir=x") == ["x"]  # one run: x is its own


def test_all_runs_share_the_local_time(monkeypatch):
    class Clock:
        seconds = iter(range(10))

        @classmethod
        def now(cls):
            return Clock

        @classmethod
        def strftime(cls, text):
            return f"time{next(cls.seconds)}"

    monkeypatch.setattr(sweep, "datetime", Clock)
    assert directories("+env=smax_3m,smax_8m") == ["runs/smax_3m/me_qmix/time0", "runs/smax_8m/me_qmix/time0"]


@pytest.mark.parametrize("late", [False, True])  # the other sweep is there when the names are chosen, or after it
def test_sweeps_of_the_same_second_have_folders_of_their_own(trained, monkeypatch, late):
    def other(*_, **__) -> None:
        folder = Path("runs/sweeps/noon")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.yaml").write_text("jobs: []")

    monkeypatch.setattr(sweep, "datetime", SimpleNamespace(now=lambda: SimpleNamespace(strftime=lambda _: "noon")))
    if late:
        monkeypatch.setattr(loop, "check", other)
    else:
        other()
    assert main(TWO) == 0
    assert trained == [(f"runs/matrix_game/{algo}/noon_2", False) for algo in ("qmix", "vdn")]
    assert Path("runs/sweeps/noon/sweep.yaml").read_text() == "jobs: []"
    assert {path.name for path in Path("runs/sweeps").iterdir()} == {"noon", "noon_2"}
    if late:
        assert main([*TWO, "name=noon"]) == 2  # a name that was given is kept


def test_the_plan_is_there_before_the_first_run(trained):
    def look(config: Config) -> None:
        found.append(yaml.safe_load(Path("out/sweep.yaml").read_text()))

    found: list = []
    trained.fail = look
    assert main([*TWO, "run_dir=out", "hyper.gamma=0.97"]) == 0
    assert found[0] == found[1]
    assert [job["run_dir"] for job in found[0]["jobs"]] == ["matrix_game/qmix", "matrix_game/vdn"]
    for job in found[0]["jobs"]:
        saved = yaml.safe_load(Path("out", job["run_dir"], "config.yaml").read_text())
        assert job["config"] | {"versions": saved["versions"]} == saved
        assert (saved["run_dir"], saved["hyper"]["gamma"]) == (f"out/{job['run_dir']}", 0.97)


def test_a_sweep_without_a_folder_of_its_own_has_its_plan_beside_the_runs(trained):
    assert main([*TWO, "name=n"]) == 0
    assert trained == [("runs/matrix_game/qmix/n", False), ("runs/matrix_game/vdn/n", False)]
    jobs = yaml.safe_load(Path("runs/sweeps/n/sweep.yaml").read_text())["jobs"]
    assert [job["run_dir"] for job in jobs] == ["../../matrix_game/qmix/n", "../../matrix_game/vdn/n"]


def test_the_table_holds_means_intervals_and_places(trained, capsys):
    assert main([*TWO, "run_dir=out"]) == 0
    *_, header, qmix, vdn, curves, where = capsys.readouterr().out.splitlines()
    assert header.split() == "env algo seeds evaluation mean 95 % interval run".split()
    for line, algo in ((qmix, "qmix"), (vdn, "vdn")):
        summary = json.loads(Path(f"out/matrix_game/{algo}/summary.json").read_text())
        rates = np.array([seed["final"]["greedy"]["win_rate"] for seed in summary["seeds"]])
        half = 12.706205 * rates.std(ddof=1) / np.sqrt(2)  # t(0.975, 1 degree of freedom)
        interval = [f"{rates.mean() - half:.4g}", "to", f"{rates.mean() + half:.4g}"]
        expected = ["matrix_game", algo, "2", "greedy", "win", "rate", f"{rates.mean():.4g}", *interval]
        assert line.split() == [*expected, f"out/matrix_game/{algo}"]
    assert curves == "curves: python -m meigm_jax.plot out --out out/curves.png"
    assert where == "sweep: out/sweep.yaml"


def test_curves_are_drawn_from_every_run_where_they_share_no_folder(trained, capsys):
    assert main([*TWO, "name=n"]) == 0
    runs = "runs/matrix_game/qmix/n runs/matrix_game/vdn/n"
    assert f"meigm_jax.plot {runs} --out runs/sweeps/n/curves.png\n" in capsys.readouterr().out


def test_one_run_that_fails_does_not_lose_the_others(trained, capsys):
    def fail(config: Config) -> None:
        if config.algo.name == "qmix":
            raise ConfigError("replay.capacity: the replay\nneeds 10 TiB")
        if config.algo.name == "me_vdn":
            raise RuntimeError("out of memory")

    trained.fail = fail
    arguments = ["+env=matrix_game", "algo=qmix,me_vdn,vdn", *SIZES, "run_dir=out"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: out/matrix_game/qmix: replay.capacity: the replay needs 10 TiB",
        "error: out/matrix_game/me_vdn: RuntimeError: out of memory",
        "error: 2 of 3 runs failed; try them again: python -m meigm_jax.train resume=out",
    ]
    assert "needs 10 TiB" in out and "RuntimeError: out of memory" in out
    assert rows_of("out/matrix_game/vdn")[-1]["env_steps"] == 160
    trained.clear()
    trained.fail = lambda config: None
    assert main(["resume=out"]) == 0
    assert trained == [(f"out/matrix_game/{algo}", algo == "vdn") for algo in ("qmix", "me_vdn", "vdn")]
    assert capsys.readouterr().out.count("nothing to do: out/matrix_game/vdn has 160 env steps") == 1


def test_what_may_change_changes_in_all_runs_and_stays(trained):
    def stop(config: Config) -> None:
        if config.algo.name == "vdn":
            raise KeyboardInterrupt

    trained.fail = stop
    assert main([*TWO, "run_dir=out"]) == 130  # one run is finished, the other has not begun
    assert main(["resume=out", "total_env_steps=240", "checkpoint.keep=1"]) == 130
    trained.fail = lambda config: None
    assert main(["resume=out"]) == 0
    for algo in ("qmix", "vdn"):
        saved = yaml.safe_load(Path(f"out/matrix_game/{algo}/config.yaml").read_text())
        assert (saved["total_env_steps"], saved["checkpoint"]["keep"]) == (240, 1)
        assert rows_of(f"out/matrix_game/{algo}")[-1]["env_steps"] == 240


def test_a_run_that_was_extended_by_itself_keeps_its_length(trained):
    main([*TWO, "run_dir=out"])
    assert main(["resume=out/matrix_game/vdn", "total_env_steps=240"]) == 0
    assert main(["resume=out"]) == 0
    assert [rows_of(f"out/matrix_game/{algo}")[-1]["env_steps"] for algo in ("qmix", "vdn")] == [160, 240]


def test_a_sweep_can_be_moved(trained):
    def stop(config: Config) -> None:
        if config.algo.name == "vdn":
            raise KeyboardInterrupt

    trained.fail = stop
    main([*TWO, "run_dir=out"])
    Path("out").rename("moved")
    trained.clear()
    trained.fail = lambda config: None
    assert main(["resume=moved/"]) == 0
    assert trained == [("moved/matrix_game/qmix", True), ("moved/matrix_game/vdn", False)]
    assert not Path("out").exists()


def break_plan(text: str):
    return lambda: Path("out/sweep.yaml").write_text(text)


def change_plan(change):
    def damage() -> None:
        tree = yaml.safe_load(Path("out/sweep.yaml").read_text())
        change(tree["jobs"])
        Path("out/sweep.yaml").write_text(yaml.safe_dump(tree))

    return damage


def replace_run(name: str, text: str):
    def damage() -> None:
        Path("out/matrix_game/vdn").rename("elsewhere")
        Path("out/matrix_game/vdn").mkdir()
        Path("out/matrix_game/vdn", name).write_text(text)

    return damage


def another_run() -> None:
    saved = Path("out/matrix_game/vdn/config.yaml")
    saved.write_text(saved.read_text().replace("gamma: 0.99", "gamma: 0.98"))


PLAN, RUN = "resume: cannot use 'out/sweep.yaml'", "resume: 'out/matrix_game/vdn'"
DAMAGE = {
    "empty": (break_plan(""), PLAN),
    "no YAML": (break_plan("jobs: ["), PLAN),
    "no jobs": (break_plan("jobs: []"), PLAN),
    "half a job": (change_plan(lambda jobs: jobs[1].pop("run_dir")), PLAN),
    "a job twice": (change_plan(lambda jobs: jobs.append(jobs[0])), PLAN),
    "a wrong value": (
        change_plan(lambda jobs: jobs[0]["config"].update(seeds=0)),
        f"{PLAN}: seeds: expected an integer",
    ),
    "a run is gone": (lambda: Path("out/matrix_game/vdn").rename("elsewhere"), f"{RUN} was started and is gone"),
    "no run any more": (replace_run("notes.txt", "mine"), f"{RUN} is not a run directory"),
    "a damaged run": (replace_run("config.yaml", "seed: ["), "resume: cannot use 'out/matrix_game/vdn/config.yaml'"),
    "another run": (another_run, f"{RUN} is not the run that out/sweep.yaml has there: hyper.gamma differs"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a sweep that is through."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(loop, "run", Trained())
        patch.setattr(loop, "check", lambda config, resume=None, memory=True: None)
        patch.setattr(sweep, "_free_memory", lambda: None)
        assert main([*TWO, "run_dir=out"]) == 0
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_sweep_is_one_line_and_starts_nothing(finished, trained, capsys, damage):
    subprocess.run(["cp", "-r", finished / "out", "out"], check=True)
    destroy, message = DAMAGE[damage]
    destroy()
    assert main(["resume=out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert trained == []


def test_an_empty_folder_in_place_of_a_run_is_trained_again(finished, trained):
    subprocess.run(["cp", "-r", finished / "out", "out"], check=True)
    Path("out/matrix_game/vdn").rename("elsewhere")
    Path("out/matrix_game/vdn").mkdir()
    assert main(["resume=out"]) == 0
    assert rows_of("out/matrix_game/vdn") == rows_of("elsewhere")


def test_a_full_disk_on_resume_forgets_nothing(finished, trained, capsys, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    subprocess.run(["cp", "-r", finished / "out", "out"], check=True)
    before = {path.name: path.read_text() for path in Path("out").glob("sweep.*")}
    monkeypatch.setattr(sweep, "write_text", full)
    assert main(["resume=out"]) == 2
    assert capsys.readouterr().err == "error: run_dir: cannot write out/sweep.yaml: No space left on device\n"
    assert {path.name: path.read_text() for path in Path("out").glob("sweep.*")} == before and len(before) == 2
    assert trained == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("resume=out hyper.gamma=0.5", "hyper.gamma: cannot change on resume (0.99 in out/matrix_game/qmix)"),
        ("resume=out total_env_steps=8", "total_env_steps: can only grow on resume (160 in out/matrix_game/qmix)"),
        ("+env=matrix_game algo=qmix,vdn run_dir=out", "run_dir: out exists; choose another run_dir, or go on with"),
        (
            "+env=matrix_game algo=qmix,vdn algo.name=x",
            "two of 2 runs would share the run directory runs/matrix_game/x/",
        ),
    ],
)
def test_wrong_commands_about_a_sweep(finished, trained, capsys, arguments, message):
    subprocess.run(["cp", "-r", finished / "out", "out"], check=True)
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert trained == []


def test_one_process_per_sweep(trained, capsys):
    def again(config: Config) -> None:
        codes.append(main(["resume=out"]))

    codes: list[int] = []
    trained.fail = again
    assert main([*TWO, "run_dir=out"]) == 0
    assert codes == [2, 2]
    expected = "error: out: another process is training this sweep\n"
    assert capsys.readouterr().err == 2 * expected


def test_nothing_is_written_when_any_run_is_wrong(monkeypatch, capsys):
    def check(config: Config, resume: Path | None = None, memory: bool = True) -> None:
        if config.algo.name == "vdn":
            raise ConfigError("no such thing")

    monkeypatch.setattr(loop, "check", check)
    assert main([*TWO, "run_dir=out"]) == 2
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_sweep_and_names_the_command_that_resumes_it(tmp_path, finished, number, code):
    folder = "a b"
    arguments = ["+env=matrix_game", "algo=qmix,vdn", f"run_dir={folder}"]
    process = fake_train("0.05", *arguments)
    for line in process.stdout:
        if line == "chunk 2\n" and Path(folder, "matrix_game/vdn").exists():
            break
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    last = out.splitlines()[-1]
    command = "python -m meigm_jax.train resume='a b'"
    assert last == f"sweep stopped; resume all of it: {command}"
    if number != signal.SIGINT:
        return  # what follows would be the same again
    out, _ = fake_train("0", *shlex.split(command)[3:]).communicate(timeout=60)
    assert "nothing to do: a b/matrix_game/qmix" in out and "resumed at" in out
    for algo in ("qmix", "vdn"):
        assert rows_of(f"a b/matrix_game/{algo}") == rows_of(str(finished / f"out/matrix_game/{algo}"))


def fake_train(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fake_train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_the_peak_of_memory_is_that_of_the_run():
    block = np.ones(2**25)  # 256 MiB
    assert machine.peak_memory() > block.nbytes
    before = machine.peak_memory()
    del block
    sweep._free_memory()
    assert machine.peak_memory() < before - 2**27


def test_a_wrong_resume_is_answered_at_once(finished):
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "meigm_jax.train", f"resume={finished / 'out'}", "seeds=7"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert time.monotonic() - begin < 3
    assert done.returncode == 2 and done.stderr.startswith("error: seeds: cannot change on resume (2 in ")
