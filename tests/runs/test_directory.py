"""Run directories: that of a run without a name is nobody else's."""

from pathlib import Path

import pytest

from meigm_jax import config as configuration
from meigm_jax.config import Config
from meigm_jax.registry import ConfigError
from meigm_jax.runs import directory
from meigm_jax.train import configure


@pytest.fixture(autouse=True)
def same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configuration, "TIME_FORMAT", "now")


def configured(*more: str) -> Config:
    return configure("+env=matrix_game", "algo=vdn", *more)


def test_runs_that_are_started_in_the_same_second_lie_beside_each_other():
    config, found = configured(), Path("runs/matrix_game/vdn")
    planned = [directory.new(config), directory.new(config)]  # two processes, before either has begun
    assert planned == [found / "now", found / "now"]
    assert [directory.begin(config, path) for path in planned] == [found / "now", found / "now_2"]
    assert directory.new(config) == found / "now_3"
    assert sorted(path.name for path in found.iterdir()) == ["now", "now_2"]


@pytest.mark.parametrize("chosen", ["name=mine", "run_dir=runs/mine"])
def test_a_run_that_is_named_lies_where_it_is_told_to(chosen: str):
    config = configured(chosen)
    run_dir = directory.new(config)
    assert run_dir.name == "mine" and directory.begin(config, run_dir) == run_dir
    before = (run_dir / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=f"{run_dir} exists; choose another name or run_dir"):
        directory.new(config)
    with pytest.raises(ConfigError, match=f"cannot make {run_dir}: File exists"):
        directory.begin(config, run_dir)
    assert (run_dir / "config.yaml").read_bytes() == before


def test_a_folder_of_runs_that_leads_nowhere_is_one_error():
    Path("runs").symlink_to("not_mounted")
    config = configured()
    with pytest.raises(ConfigError, match="run_dir: cannot make runs/matrix_game/vdn/now: "):
        directory.begin(config, directory.new(config))
