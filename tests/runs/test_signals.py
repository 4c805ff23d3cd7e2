"""Signals, in a process of their own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(run_dir, seconds):
    command = [sys.executable, "-m", "tests.runs.fake", str(run_dir), str(seconds)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, **pipes, text=True, preexec_fn=hear_every_signal)


def hear_every_signal():
    """Under nohup the tests, and what they start, would ignore SIGHUP, and in the background of a shell SIGINT."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_after_a_checkpoint(tmp_path, number, code):
    process = start(tmp_path / "run", 0.2)
    wait_for(process, "chunk 3")
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    (manifest,) = (tmp_path / "run/checkpoints").glob("[0-9]*/manifest.json")
    saved = json.loads(manifest.read_text())
    text = (tmp_path / "run/metrics.jsonl").read_text()
    assert saved["iteration"] >= 4 and saved["host"]["metrics_bytes"] == len(text)
    assert all(json.loads(line) for line in text.splitlines()) and text.endswith("\n")


@pytest.mark.parametrize("seconds", [60, "inf"])
def test_before_the_first_chunk_is_through_a_signal_ends_the_run_at_once(tmp_path, seconds):
    process = start(tmp_path / "run", seconds)
    wait_for(process, "chunk 0")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path):
    """As from `timeout`, which signals the process and then its group."""
    process = start(tmp_path / "run", 0.5)
    wait_for(process, "chunk 2")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert list((tmp_path / "run").glob("checkpoints/[0-9]*/manifest.json"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into the process, as Linux has it")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.4])
def test_a_signal_while_jax_is_imported_is_not_lost(tmp_path, number, code, seconds):
    """JAX's own callbacks swallow exceptions."""
    arguments = f"+env=matrix_game total_env_steps=1e7 run_dir={tmp_path / 'run'}".split()
    command = [sys.executable, "-m", "meigm_jax.train", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=hear_every_signal)
    try:
        while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(number)
        assert process.wait(timeout=20) == code
    finally:
        process.kill()


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    process = start(tmp_path / "run", 3)
    wait_for(process, "chunk 1")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    process.communicate(timeout=10)
    assert process.returncode == 130 and time.monotonic() - begin < 2
    assert not list((tmp_path / "run").glob("checkpoints/[0-9]*"))
