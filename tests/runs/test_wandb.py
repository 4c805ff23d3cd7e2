"""wandb from outside: what arrives at a server, and that nothing it does can harm a run. Most trainers are fake."""

import errno
import json
import os
import pty
import subprocess
import sys
import threading
import time
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from meigm_jax.runs import loop, wandb_sink
from meigm_jax.runs.progress import ChunkSize
from meigm_jax.runs.wandb_sender import RECORD, Record, evaluation_table, locked, point
from tests.runs import fake
from tests.runs.wandb_server import Server

ROOT = Path(__file__).parents[2]
TRAINER = fake.make_trainer(fake.small_config(Path("unused")), 3)
BROKEN = """\
import time
Settings = Table = dict
def teardown(): ...
class Run:
    step, url = 0, "here"
    def define_metric(self, *args, **kwargs): ...
    def log(self, *args, **kwargs): {log}
    def finish(self, *args, **kwargs): {finish}
def init(**kwargs):
    {init}
    return Run()
{top}
"""


class Crash(Exception):
    pass


@pytest.fixture(autouse=True)
def wandb_of_its_own(tmp_path, monkeypatch):
    """No login and no settings of the user's; nothing that wandb starts may be left."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    deadline = time.monotonic() + 20
    while (left := helpers(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def helpers(home):
    """Processes that wandb or its sink has started from this test."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if "wandb" in command and process.environ().get("HOME") == str(home):
                found.append(command)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
        yield server


@pytest.fixture
def one_by_one(monkeypatch):
    monkeypatch.setattr(ChunkSize, "next", lambda self, limit: 1)


def train(run_dir, *overrides, crash_in=None):
    """Train in `run_dir`, or go on there; crash in chunk `crash_in`."""
    chunks = iter(range(1, 100))

    def run(state, first, count):
        if next(chunks) == crash_in:
            raise Crash
        return TRAINER.run(state, first, count)

    config = fake.small_config(run_dir, *overrides)
    return loop.run(config, run_dir if run_dir.exists() else None, lambda *_: TRAINER._replace(run=run))


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def ids_of(run_dir):
    (place,) = json.loads((run_dir / RECORD).read_text()).values()
    return place["id"]


def assert_shows(server, run, rows, together):
    """The history of a wandb run is what is in metrics.jsonl, each point once, and a table at the end."""
    *history, last = server.history(run)
    assert [row["env_steps"] for row in history] == [row["_step"] for row in history]
    for row, (env_steps, expected) in zip(history, groupby(rows, lambda row: row["env_steps"]), strict=True):
        assert row["env_steps"] == env_steps
        expected = point(list(expected), together)
        assert {key: row.get(key) for key in expected} == pytest.approx(expected, rel=1e-6)
    assert last["env_steps"] == 160 and last["evaluation"]["nrows"] == (4 if together else 2)
    found = server.runs[run]
    assert found["exitcode"] == 0 and found["config"]["versions"]["value"]["jaxmarl"]


def test_one_run_for_all_seeds_goes_on_after_a_kill(tmp_path, server, capsys):
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "tests.runs.fake", str(run_dir), "0.2", "wandb.mode=online"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        for line in killed.stdout:
            if line == "chunk 12\n":
                killed.kill()
    deadline = time.monotonic() + 60
    while helpers(tmp_path) and time.monotonic() < deadline:  # what was measured by then is still sent
        time.sleep(0.1)
    (run,) = server.runs
    before = [row["env_steps"] for row in server.history(run)]
    assert before == [24, 48, 56, 72, 96] and server.runs[run]["exitcode"] == 1
    summary = train(run_dir, "wandb.mode=online")
    assert list(server.runs) == [run] == [ids_of(run_dir)]
    assert_shows(server, run, rows_of(run_dir), together=True)
    assert f"wandb: {server.url}/me/meigm_jax/runs/{run}\n" in capsys.readouterr().out
    shown = server.runs[run]["summary"]
    finals = [seed["final"]["greedy"]["return"] for seed in summary["seeds"]]
    assert shown["final_greedy/return"] == pytest.approx(sum(finals) / 2) and shown["non_finite_seeds"] == 0


def test_a_run_per_seed_continues_where_the_checkpoint_was(tmp_path, server, one_by_one, capsys):
    run_dir, options = tmp_path / "run", ("wandb.mode=online", "wandb.runs=per_seed", "name=mine")
    with pytest.raises(Crash):
        train(run_dir, *options, "checkpoint.interval_seconds=1000", crash_in=14)
    assert [row["env_steps"] for row in rows_of(run_dir) if row["kind"] == "train"][-1] == 104 - 8
    train(run_dir, *options)  # from the beginning: there was no checkpoint
    base = ids_of(run_dir)
    assert list(server.runs) == [f"{base}-seed0", f"{base}-seed1"]
    for seed in (0, 1):
        run = f"{base}-seed{seed}"
        assert_shows(server, run, [row for row in rows_of(run_dir) if row["seed"] == seed], together=False)
        assert server.runs[run]["group"] == "matrix_game/qmix/mine"
        config = server.runs[run]["config"]
        assert (config["seed"]["value"], config["seeds"]["value"]) == (seed, 1)
    assert "wandb: 2 runs in group matrix_game/qmix/mine" in capsys.readouterr().out


def test_a_finished_run_can_be_sent_later(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    run_dir = tmp_path / "run"
    train(run_dir, "wandb.mode=online")
    assert capsys.readouterr().err.count("warning: wandb is off") == 1
    command = [sys.executable, "-m", "meigm_jax.runs.wandb_sender", str(run_dir)]
    for url in ("http://127.0.0.1:9", server.url, server.url):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "20" if url == server.url else "1")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        said = (done.returncode, done.stdout[:11], done.stderr[:7])
        assert said == ((0, "wandb: http", "") if url == server.url else (1, "", "error: "))
    (run,) = server.runs
    history = [row for row in server.history(run) if "evaluation" not in row]
    assert [row["env_steps"] for row in history] == list(dict.fromkeys(row["env_steps"] for row in rows_of(run_dir)))


def test_a_full_disk_leaves_the_ids(tmp_path, monkeypatch):
    settings = {"mode": "offline", "entity": None, "project": "p", "runs": "together"}
    record = Record(tmp_path, settings)
    record.sent = 7
    record.save()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk, pytest.raises(OSError, match="No space left"):
        disk.setattr(os, "fsync", full)
        record.sent = 9
        record.save()
    again = Record(tmp_path, settings)
    assert (again.id, again.sent) == (record.id, 7)


def test_one_sender_at_a_time(tmp_path):
    with locked(tmp_path):
        later = threading.Thread(target=lambda: locked(tmp_path).__enter__(), daemon=True)
        later.start()
        later.join(0.5)
        assert later.is_alive()
    later.join(30)
    assert not later.is_alive()


def test_what_cannot_be_sent_is_one_line(tmp_path):
    def said(*arguments):
        command = [sys.executable, "-m", "meigm_jax.runs.wandb_sender", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
        return done.stderr

    run_dir = tmp_path / "run"
    assert said().startswith("error: the following arguments are required: RUN_DIRECTORY")
    assert said(run_dir).startswith(f"error: run: '{run_dir}' is not a run directory")
    train(run_dir)
    assert said(run_dir).startswith(f"error: run: wandb.mode is disabled in {run_dir}/config.yaml")
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("mode: disabled", "mode: offline"))
    (run_dir / "summary.json").unlink()
    assert said(run_dir).startswith(f"error: run: {run_dir} is not complete")
    assert not (run_dir / RECORD).exists()


def test_offline_sittings_are_one_run_when_they_are_uploaded(tmp_path, server, one_by_one, capsys):
    together, each = tmp_path / "together", tmp_path / "each"
    with pytest.raises(Crash):
        train(together, "wandb.mode=offline", "checkpoint.interval_seconds=1000", crash_in=11)
    killed = together / f"wandb/offline-run-20201231_235959-{ids_of(together)}"
    killed.mkdir()
    (killed / f"run-{ids_of(together)}.wandb").touch()
    train(together, "wandb.mode=offline")
    train(each, "wandb.mode=offline", "wandb.runs=per_seed")
    assert server.runs == {}
    assert f"wandb: upload with `wandb sync {together}/wandb/offline-run-*`\n" in capsys.readouterr().out
    folders = [str(path) for run in (together, each) for path in sorted(run.glob("wandb/offline-run-*"))]
    assert len(folders) == 4 and str(killed) not in folders
    subprocess.run([sys.executable, "-m", "wandb", "sync", *folders], check=True, capture_output=True)
    assert_shows(server, ids_of(together), rows_of(together), together=True)
    for seed in (0, 1):
        mine = [row for row in rows_of(each) if row["seed"] == seed]
        assert_shows(server, f"{ids_of(each)}-seed{seed}", mine, together=False)


def put_in_place_of_wandb(tmp_path, monkeypatch, **lines):
    parts = {"log": "...", "finish": "...", "init": "...", "top": "..."} | lines
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/wandb.py").write_text(BROKEN.format(**parts))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))


@pytest.mark.parametrize("where", ["top", "init", "log", "finish"])
def test_whatever_wandb_raises_is_one_warning(tmp_path, monkeypatch, capsys, where):
    put_in_place_of_wandb(tmp_path, monkeypatch, **{where: "raise OSError('no luck\\nat all')"})
    summary = train(tmp_path / "run", "wandb.mode=online")
    assert capsys.readouterr().err == "warning: wandb is off for the rest of this run: no luck\n"
    assert summary["env_steps"] == 160 and len(rows_of(tmp_path / "run")) == 7 * 2 + 4 * 4


def test_wandb_dying_is_one_warning(tmp_path, monkeypatch, capsys):
    put_in_place_of_wandb(tmp_path, monkeypatch, log="import os; os._exit(3)")
    train(tmp_path / "run", "wandb.mode=online")
    expected = "warning: wandb is off for the rest of this run: its process has ended with code 3\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_wandb_that_hangs_holds_nothing_up_for_long(tmp_path, monkeypatch, capsys, where):
    put_in_place_of_wandb(tmp_path, monkeypatch, **{where: "time.sleep(1000)"})
    monkeypatch.setattr(wandb_sink, "FINISH_SECONDS", 1.0)
    begin = time.monotonic()
    train(tmp_path / "run", "wandb.mode=online", "seeds=2")
    assert time.monotonic() - begin < 20
    err = capsys.readouterr().err
    run_dir = tmp_path / "run"
    rest = f"to send the rest: python -m meigm_jax.runs.wandb_sender {run_dir}\n"
    assert err == f"warning: wandb was left after 1 s; {rest}"


def test_without_a_login_nothing_is_asked_on_a_terminal(tmp_path):
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "tests.runs.fake", str(tmp_path / "run"), "0", "wandb.mode=online"]
    with subprocess.Popen(command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        said = b""
        while chunk := read(ours):
            said += chunk
    assert process.returncode == 0
    assert said.count(b"wandb") == 2 and b"warning: wandb is off for the rest of this run: No API key" in said
    assert len(rows_of(tmp_path / "run")) == 7 * 2 + 4 * 4


def read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that nobody writes any more
        return b""


def test_a_server_that_cannot_be_reached_is_one_warning_of_the_command(tmp_path):
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": 40 * "a", "WANDB_INIT_TIMEOUT": "5"}
    arguments = "+env=matrix_game +experiment=smoke log.progress=false wandb.mode=online"
    done = subprocess.run(
        [sys.executable, "-m", "meigm_jax.train", *arguments.split(), f"run_dir={tmp_path / 'run'}"],
        env=os.environ | nobody | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("warning: wandb is off for the rest of this run: ") and done.stderr.count("\n") == 1
    assert rows_of(tmp_path / "run")[-1]["env_steps"] == 2048
    assert "wandb" not in done.stdout


def test_a_point_holds_every_seed_and_the_mean():
    about = {"kind": "train", "env_steps": 8, "grad_steps": 2, "hyper": {}, "wall_time": 1.0}
    rows = [
        {**about, "seed": seed, "member": seed - 3, "return": value, "loss_td": loss}
        for seed, value, loss in [(3, 1.0, None), (4, 2.0, 0.5)]
    ]
    rows.append({**rows[0], "kind": "eval", "policy": "greedy", "win_rate": 0.25, "episodes": 4})
    del rows[-1]["return"], rows[-1]["loss_td"]
    assert point(rows, together=True) == {
        "env_steps": 8,
        "grad_steps": 2,
        "seed3/train/return": 1.0,
        "seed4/train/return": 2.0,
        "train/return": 1.5,
        "seed4/train/loss_td": 0.5,
        "seed3/eval_greedy/win_rate": 0.25,
        "eval_greedy/win_rate": 0.25,
    }
    alone = [row for row in rows if row["seed"] == 3]
    expected = {"env_steps": 8, "grad_steps": 2, "train/return": 1.0, "eval_greedy/win_rate": 0.25}
    assert point(alone, together=False) == expected


def test_a_point_of_a_sweep_has_means_and_seeds_of_its_own():
    about = {"kind": "train", "env_steps": 8, "grad_steps": 2, "wall_time": 1.0}
    rows = [
        {**about, "seed": seed, "member": 2 * k + seed, "hyper": {"gamma": gamma, "td_lambda": 0.5}, "return": k + seed}
        for k, gamma in enumerate((0.9, 1.0))
        for seed in (0, 1)
    ]
    assert point(rows, together=True) == {
        "env_steps": 8,
        "grad_steps": 2,
        "gamma=0.9,td_lambda=0.5/seed0/train/return": 0,
        "gamma=0.9,td_lambda=0.5/seed1/train/return": 1,
        "gamma=0.9,td_lambda=0.5/train/return": 0.5,
        "gamma=1,td_lambda=0.5/seed0/train/return": 1,
        "gamma=1,td_lambda=0.5/seed1/train/return": 2,
        "gamma=1,td_lambda=0.5/train/return": 1.5,
    }
    finals = [{"seed": 0, "hyper": {"gamma": gamma}, "final": {"greedy": {"return": 1.0}}} for gamma in (0.9, 1.0)]
    columns = ["gamma", "seed", "policy", "return"]
    assert evaluation_table(finals) == (columns, [[0.9, 0, "greedy", 1.0], [1.0, 0, "greedy", 1.0]])


def test_a_sweep_arrives_point_by_point(tmp_path, server):
    together, each = tmp_path / "together", tmp_path / "each"
    options = ("wandb.mode=online", "algo=me_qmix", "seeds=1", "sweep.alpha_lr=[0.01,0.1]", "name=mine")
    for run_dir, runs in ((together, "together"), (each, "per_seed")):
        loop.run(fake.small_config(run_dir, *options, f"wandb.runs={runs}"), None, fake.make_trainer)
    one, *two = list(server.runs)
    assert one == ids_of(together) and two == [f"{ids_of(each)}-seed0-member{k}" for k in (0, 1)]
    finals = json.loads((each / "summary.json").read_text())["seeds"]
    for run, value, member in zip(two, (0.01, 0.1), finals, strict=True):
        assert server.runs[run]["config"]["hyper"]["value"]["alpha_learning_rate"] == value
        final = member["final"]["greedy"]["return"]
        assert server.runs[run]["summary"]["final_greedy/return"] == pytest.approx(final)
        shown = server.runs[one]["summary"][f"alpha_learning_rate={value}/final_greedy/return"]
        assert shown == pytest.approx(final)
    assert finals[0]["final"] != finals[1]["final"]


def test_the_table_has_a_row_per_seed_and_policy():
    greedy = {"env_steps": 160, "return": 2.0, "episode_length": 1.0, "episodes": 8}
    final = {"greedy": greedy, "sampled": {"return": 1.0, "episodes": 8, "win_rate": 0.5}}
    columns, data = evaluation_table([{"seed": 3, "hyper": {}, "final": final}])
    assert columns == ["seed", "policy", "return", "episode_length", "episodes", "win_rate"]
    assert data == [[3, "greedy", 2.0, 1.0, 8, None], [3, "sampled", 1.0, None, 8, 0.5]]
