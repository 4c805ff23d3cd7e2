"""A member is the same whether it is trained alone or among others, and every member of many gets to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meigm_jax.runs.loop import run
from meigm_jax.train import configure

ROOT = Path(__file__).parents[2]


def rows_of(run_dir: Path, seed: int, **hyper: float) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in ("wall_time", "member", "hyper")}
        for row in rows
        if row["seed"] == seed and row["hyper"] == hyper
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def train(*arguments: str) -> Path:
        run_dir = folder / "_".join(arguments)
        command = ["+env=matrix_game", "+experiment=smoke", "log.progress=false", f"run_dir={run_dir}", *arguments]
        command += ["algo.agent.name=mlp", "algo.agent.hidden_dim=16"]  # compiled in half the time
        run(configure(*command))
        return run_dir

    return train


def test_the_third_of_three_seeds_alone_has_the_same_metrics(trained):
    among, alone = trained("seeds=3"), trained("seed=2", "seeds=1")
    assert len(rows_of(alone, 2)) >= 6
    assert rows_of(among, 2) == rows_of(alone, 2)
    assert rows_of(among, 1) != rows_of(alone, 2)


def test_eight_seeds_get_to_the_end_and_differ(trained):
    run_dir = trained("seeds=8")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [member["seed"] for member in summary["seeds"]] == list(range(8))
    assert all(member["non_finite"] is None for member in summary["seeds"])
    assert len({json.dumps([row.get("loss_td") for row in rows_of(run_dir, seed)]) for seed in range(8)}) == 8


def test_a_member_alone_has_the_same_metrics_where_xla_optimises(tmp_path):
    """In processes of their own: under this suite's XLA_FLAGS programs come out alike, whatever the trainer does."""

    def start(run_dir: Path, *chosen: str) -> subprocess.Popen:
        sizes = "train.num_envs=8 train.updates_per_chunk=4 train.warmup_sequences=32 total_env_steps=10240".split()
        asked = (
            "evaluation.policies=[greedy] evaluation.episodes=4 evaluation.final_episodes=4 log.interval=1e3".split()
        )
        command = [sys.executable, "-m", "meigm_jax.train", "+env=smax_5v5", "devices=1", *sizes, *asked, *chosen]
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        return subprocess.Popen([*command, f"run_dir={run_dir}"], cwd=ROOT, env=environment)

    alone, among = tmp_path / "alone", tmp_path / "among"
    processes = [
        start(alone, "seed=1", "seeds=1", "hyper.target_entropy=0.4"),
        start(among, "seed=0", "seeds=2", "sweep.target_entropy=[0.2,0.4]"),
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert rows_of(alone, 1)[-2]["loss_td"] > 0
    assert rows_of(alone, 1) == rows_of(among, 1, target_entropy=0.4) != rows_of(among, 1, target_entropy=0.2)
