"""What README shows for clusters, as it stands there, with the trainer in miniature in place of the real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meigm_jax.config import run_directory
from meigm_jax.train import parse, plan

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
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


def test_a_task_of_the_job_array_trains_and_goes_on_when_it_is_submitted_again():
    command = f'exec {sys.executable} -m tests.fake_train 0 "$@"'
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
    subprocess.run([sys.executable, "-c", start, "--multirun", *options, *sizes], env=ENVIRONMENT, check=True)
    found = [json.loads(path.read_text()) for path in sorted(Path("out").glob("*/run/summary.json"))]
    assert [(each["algo"], each["seeds"][0]["seed"]) for each in found] == [("qmix", 3), ("vdn", 3)]
