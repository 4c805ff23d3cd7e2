"""A grid of hyper-parameters in one program: each of its points is what a run with those values alone would be."""

from __future__ import annotations

import collections
import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from meigm_jax import evaluate, plot, sweep, train
from meigm_jax.config import Config, grid, members, steps_per_iteration
from meigm_jax.registry import ConfigError
from meigm_jax.runs import devices, directory, loop, machine
from meigm_jax.runs.checkpoint import read_manifest
from meigm_jax.runs.progress import ChunkSize
from meigm_jax.runs.restore import restore
from meigm_jax.train import configure, parse, plan
from tests.runs import fake

RATES, TARGETS = (0.03, 0.3), (0.12, 0.24, 0.4)
GRID = ("sweep.alpha_lr=[0.03,0.3]", "sweep.target_entropy=[0.12,0.24,4e-1]")
POINTS = [{"alpha_learning_rate": a, "target_entropy": t} for a in RATES for t in TARGETS]
CHOSEN = (1, 5)  # points that are trained alone as well


def config_of(run_dir: Path, *arguments: str) -> Config:
    # Evaluations before anything is learnt much: points must differ in which of them is their best.
    command = ["+env=matrix_game", "+experiment=smoke", "evaluation.interval=64", "hyper.learning_rate=0.02"]
    command += ["algo.agent.name=mlp", "algo.agent.hidden_dim=16", "log.progress=false"]
    return configure(*command, f"run_dir={run_dir}", *arguments)


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def measured(rows: list[dict]) -> list[dict]:
    """What a member has measured, whatever its place in the batch."""
    return [{k: v for k, v in row.items() if k not in ("wall_time", "member", "hyper")} for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of the grid, how often its parts were traced and compiled, and runs of two points alone."""
    folder, events = tmp_path_factory.mktemp("runs"), collections.Counter()

    def listen(event: str, seconds: float, **about: str) -> None:
        events[event.rpartition("/")[2], about.get("fun_name")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        loop.run(config_of(folder / "grid", *GRID))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    for k in CHOSEN:
        loop.run(config_of(folder / str(k), *(f"hyper.{name}={value}" for name, value in POINTS[k].items())))
    return folder, events


def test_two_times_three_points_with_two_seeds_are_one_program(trained):
    folder, events = trained
    assert events["jaxpr_trace_duration", "run"] == 1
    assert events["backend_compile_duration", "jit(run)"] == 1
    expected = [(seed, hyper) for hyper in POINTS for seed in (0, 1)]
    rows = rows_of(folder / "grid")
    assert [(row["seed"], row["hyper"]) for row in rows[:12]] == expected
    assert [row["member"] for row in rows] == list(range(12)) * (len(rows) // 12)
    summary = json.loads((folder / "grid/summary.json").read_text())
    assert [(each["seed"], each["hyper"], each["member"]) for each in summary["seeds"]] == [
        (*each, k) for k, each in enumerate(expected)
    ]


@pytest.mark.parametrize("k", CHOSEN)
def test_the_curves_of_a_point_are_those_of_the_run_with_its_values_alone(trained, k):
    folder, _ = trained
    rows = measured([row for row in rows_of(folder / "grid") if row["hyper"] == POINTS[k]])
    assert rows == measured(rows_of(folder / str(k))) and len(rows) >= 2 * (4 + 32)
    others = [row for row in rows_of(folder / "grid") if row["hyper"] == POINTS[0]]
    assert rows != measured(others)


@pytest.mark.parametrize("checkpoint", ["newest", "best"])
def test_the_learners_of_a_point_are_those_of_the_run_with_its_values_alone(trained, checkpoint):
    folder, _ = trained
    all_points = restore(folder / "grid", None, checkpoint, pytest.fail)
    for k in CHOSEN:
        alone, mine = restore(folder / str(k), None, checkpoint, pytest.fail), slice(2 * k, 2 * k + 2)
        assert (all_points.seeds[mine], all_points.hypers[mine]) == ([0, 1], [POINTS[k]] * 2)
        assert all_points.env_steps[mine] == alone.env_steps
        for x, y in zip(jax.tree.leaves(all_points.learner), jax.tree.leaves(alone.learner), strict=True):
            np.testing.assert_array_equal(np.asarray(x[mine]), np.asarray(y))


def test_points_have_their_best_learners_at_different_times(trained):
    iterations = read_manifest(trained[0] / "grid/checkpoints/best")["iterations"]
    assert iterations[::2] == iterations[1::2] and len(set(iterations)) > 1


def test_the_lines_of_a_figure_are_the_points(trained, tmp_path, capsys):
    assert plot.main([str(trained[0] / "grid"), "--out", str(tmp_path / "curves.png")]) == 0
    names = [f"alpha_learning_rate={p['alpha_learning_rate']} target_entropy={p['target_entropy']}" for p in POINTS]
    expected = ", ".join(f"me_qmix {name} (2 seeds)" for name in names)
    assert capsys.readouterr().out.endswith(f": matrix_game, greedy return, {expected}\n")
    assert plot.main([*(str(trained[0] / name) for name in ("grid", "1")), "--out", str(tmp_path / "curves.png")]) == 0
    out, err = capsys.readouterr()  # one configuration: the run alone joins its point
    assert out.endswith(f"{expected}\n") and "seeds 0, 1 twice" in err


def test_evaluation_tells_points_apart(trained, capsys):
    run, alone = str(trained[0] / "grid"), str(trained[0] / "1")
    told = []
    for folder in (run, alone):
        assert evaluate.main([folder, "--policy", "sampled", "--episodes", "6", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    several, single = told
    assert [point["hyper"] for point in several["points"]] == POINTS and "all" not in several
    assert several["points"][1] == single["all"] | {"hyper": POINTS[1]}
    assert several["seeds"][3] == single["seeds"][1] | {"member": 3, "hyper": POINTS[1]}
    assert evaluate.main([run, "--member", "3", "--episodes", "2"]) == 0
    header, row = capsys.readouterr().out.splitlines()[3:]
    assert header.split()[:4] == ["member", "alpha_learning_rate", "target_entropy", "seed"]
    assert row.split()[:4] == ["3", "0.03", "0.24", "1"]


FAKE_RATES = (0.0, 0.001, 0.05)  # whose best evaluations are at iterations 12, 10 and 2
SOFT = "algo=me_qmix"  # what reads the temperature's learning rate
SWEEP = (SOFT, "sweep.alpha_lr=[0,1e-3,0.05]", "evaluation.interval=16")
SELDOM = "checkpoint.interval_seconds=1000"
TRAINERS = {n: fake.make_trainer(fake.small_config(Path("unused"), *(SWEEP if n == 3 else ())), 3) for n in (1, 3)}


class Crash(Exception):
    pass


def with_fake(config: Config, resume: Path | None = None, crash_in: int | None = None) -> None:
    """A run of the trainer in miniature, one iteration per chunk; it crashes in chunk `crash_in`."""
    count, trainer = itertools.count(1), TRAINERS[len(grid(config))]

    def run(*args):
        if next(count) == crash_in:
            raise Crash
        return trainer.run(*args)

    loop.run(config, resume, lambda *_: trainer._replace(run=run))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkSize, "next", lambda self, limit: 1)
        with_fake(fake.small_config(run_dir, *SWEEP, SELDOM))
    return run_dir


@pytest.fixture
def one_by_one(monkeypatch):
    monkeypatch.setattr(ChunkSize, "next", lambda self, limit: 1)


def timeless(run_dir: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "wall_time"} for row in rows_of(run_dir)]


@pytest.mark.parametrize("crash_in", [9, 12])
def test_a_sweep_that_was_killed_goes_on(whole, tmp_path, one_by_one, crash_in, capsys):
    killed = tmp_path / "killed"
    with pytest.raises(Crash):
        with_fake(fake.small_config(killed, *SWEEP), crash_in=crash_in)
    [job] = plan(parse([f"resume={killed}"]))
    with_fake(job.config, killed)
    assert timeless(killed) == timeless(whole)
    manifests = [read_manifest(run / "checkpoints/best") for run in (killed, whole)]
    assert manifests[0] == manifests[1] and manifests[0]["iterations"] == [12, 12, 12, 12, 2, 2]
    out = capsys.readouterr().out
    header, *lines = out[out.index("alpha_learning_rate") :].splitlines()
    assert header.split()[1:] == "greedy win rate (8 episodes), mean of 2 seeds".split()
    assert [line.split()[0] for line in lines[:3]] == ["0", "0.001", "0.05"]


def test_the_best_of_a_point_is_saved_when_it_is_the_best_of_the_run_alone(tmp_path, one_by_one):
    for rate, iteration in zip(FAKE_RATES, (12, 12, 2), strict=True):
        config = fake.small_config(tmp_path / f"{rate}", SOFT, f"hyper.alpha_lr={rate}", SWEEP[2], SELDOM)
        with_fake(config)
        found: dict[int, list[tuple[float, float]]] = {}
        for row in rows_of(tmp_path / f"{rate}"):
            if row.get("policy") == "greedy":
                found.setdefault(row["env_steps"], []).append((row["win_rate"], row["return"]))
        scores = {steps: tuple(np.mean(values, axis=0)) for steps, values in found.items()}
        assert max(scores, key=lambda steps: scores[steps]) == iteration * steps_per_iteration(config)
        assert read_manifest(tmp_path / f"{rate}/checkpoints/best")["iteration"] == iteration


def test_a_best_checkpoint_that_is_damaged_starts_anew(tmp_path, one_by_one, capsys):
    config = fake.small_config(tmp_path / "run", *SWEEP)
    with pytest.raises(Crash):
        with_fake(config, crash_in=9)
    shutil.rmtree(tmp_path / "run/checkpoints/best/state")
    with_fake(config, tmp_path / "run")
    assert "warning: the best checkpoint is not intact and starts anew: " in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "run/checkpoints/best")
    assert min(manifest["iterations"]) == 10  # the last point's best was at iteration 2, and is lost
    steps = steps_per_iteration(config)
    evaluations = [row for row in rows_of(tmp_path / "run") if row.get("policy") == "greedy"]
    rates = {(row["member"], row["env_steps"]): row["win_rate"] for row in evaluations}
    theirs = [rates[member, iteration * steps] for member, iteration in enumerate(manifest["iterations"])]
    assert manifest["win_rate"] == pytest.approx(np.mean(theirs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sweep.alpha_lr=[0.01,0.05]", "sweep.alpha_learning_rate: cannot change on resume ([0.0, 0.001, 0.05] in"),
        ("sweep.gamma=[0.9]", "sweep.gamma: cannot change on resume (not set in"),
        ("sweep={}", "sweep.alpha_learning_rate: cannot change on resume"),
    ],
)
def test_another_sweep_is_refused_on_resume(tmp_path, capsys, change, message):
    config = fake.small_config(tmp_path / "run", *SWEEP)
    directory.begin(config, tmp_path / "run")
    assert train.main([f"resume={tmp_path / 'run'}", change]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_members_that_devices_do_not_divide_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.jax, "devices", lambda: [SimpleNamespace(platform="gpu")] * 8)
    config = fake.small_config(tmp_path, SOFT, *GRID)
    several = r"12 members \(6 points of the sweep x 2 seeds\)"
    with pytest.raises(ConfigError, match=rf"{several} can't be shared evenly by 8 devices; .* devices=6"):
        devices.devices_of(fake.small_config(tmp_path, SOFT, *GRID, "devices=8"))
    assert len(devices.devices_of(config)) == 6
    assert re.match(rf"6 of 8 devices are used: more can't share {several} evenly", devices.idle(config))
    assert len(devices.devices_of(fake.small_config(tmp_path, SOFT, *GRID, "devices=4"))) == 4
    assert [member.seed for member in members(config)] == [0, 1] * 6


def test_a_replay_of_all_members_that_does_not_fit_is_told(tmp_path):
    config = fake.small_config(tmp_path, SOFT, *GRID)
    message = r"the replay needs .* \(12 x 8 sequences\) on .* lower replay.capacity, the sweep or seeds"
    with pytest.raises(ConfigError, match=message):
        machine.check_replay_fits(config, 2**52)


def test_a_dry_run_counts_members(capsys, tmp_path):
    arguments = ["+env=matrix_game", "+experiment=smoke", f"run_dir={tmp_path / 'run'}", *GRID]
    assert train.main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "(12 x 16 sequences)" in out and "for each of 12 members (6 points of the sweep x 2 seeds)" in out
    assert "of each member: 256 iterations" in out


def test_several_runs_that_sweep_have_a_line_per_point(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    real_run = loop.run
    monkeypatch.setattr(loop, "check", lambda config, resume=None, memory=True: None)
    monkeypatch.setattr(loop, "run", lambda config, resume=None: real_run(config, resume, fake.make_trainer))
    monkeypatch.setattr(sweep, "_free_memory", lambda: None)
    sizes = [argument for argument in fake.SMALL if not argument.startswith("algo=")]
    assert train.main([*sizes, "algo=me_qmix,me_vdn", "sweep.alpha_lr=[0.01,0.05]", "run_dir=out"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()[-7:-2]
    assert header.split()[:3] == ["env", "algo", "seeds"]
    points = [(algo, f"alpha_learning_rate={rate}") for algo in ("me_qmix", "me_vdn") for rate in (0.01, 0.05)]
    assert [tuple(line.split()[1:3]) for line in lines] == points
    summary = json.loads(Path("out/matrix_game/me_vdn/summary.json").read_text())
    mean = np.mean([member["final"]["greedy"]["win_rate"] for member in summary["seeds"][2:]])
    assert lines[3].split()[7] == f"{mean:.4g}"
