"""Names, options and YAML files of the environments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import hydra
import pytest
from omegaconf import OmegaConf

from meigm_jax import envs
from meigm_jax.registry import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def compose(*overrides: str) -> dict[str, Any]:
    """The composed configuration, as plain containers."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True, throw_on_missing=True)
    return cast(dict[str, Any], plain)


def test_every_environment_has_its_file_and_nothing_else_does() -> None:
    assert {path.stem for path in (CONFIGS / "env").glob("*.yaml")} == set(envs.NAMES)


@pytest.mark.parametrize("name", [name for name in envs.NAMES if name != envs.BY_ID])
def test_the_file_names_its_environment_and_states_the_defaults(name: str) -> None:
    config = compose(f"env={name}")
    assert config["env"]["name"] == name
    assert config["env"]["options"] == envs.check_options(name, {})
    spec = envs.make(name).spec
    limit = envs.episode_limit(name, config["env"]["options"])
    assert config["train"]["chunk_length"] > spec.episode_limit == limit
    assert spec.shaped == ("shaping_start" in envs.suite_of(name).reads)


def test_the_command_line_wins() -> None:
    config = compose("env=smax_3m", "env.reward_scale=2.0", "env.options.max_steps=30", "train.chunk_length=40")
    assert config["env"]["name"] == "smax_3m"
    assert (config["env"]["reward_scale"], config["train"]["chunk_length"]) == (2.0, 40)
    assert config["env"]["options"] == envs.check_options("smax_3m", {"max_steps": 30})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smax_3", {}, "env.name: unknown environment 'smax_3'; did you mean .*smax_3m.*"),
        ("smax_3m", {"max_step": 5}, "unknown key 'env.options.max_step'; did you mean max_steps.*"),
        ("smax_3m", {"max_steps": 0}, "env.options.max_steps: expected an integer of at least 1, got 0"),
        ("smax_3m", {"max_steps": "abc"}, "env.options.max_steps: expected int, got 'abc'"),
        ("smax_3m", {"max_steps": 1.5}, "env.options.max_steps: expected int, got 1.5"),
        ("smax_3m", {"max_steps": True}, "env.options.max_steps: expected int, got True"),
        ("smax_3m", {"walls_cause_death": 1}, "env.options.walls_cause_death: expected bool, got 1"),
        ("smax_3m", {"sight_range": -1}, "env.options.sight_range: expected a distance of at least 0, or null, got -1"),
        ("smax_3m", {"sight_range": "far"}, "env.options.sight_range: expected float, got 'far'"),
        ("smax_3m", {"unit_types": "two"}, "unknown key 'env.options.unit_types'; .*"),
        ("smax_terran_5v5", {"unit_types": "four"}, "env.options.unit_types: expected one of three, two, got 'four'"),
        ("smax_terran_5v6", {}, "env.name: unknown environment 'smax_terran_5v6'; did you mean .*smax_terran_5v5.*"),
        ("matrix_game", {"max_steps": 5}, "unknown key 'env.options.max_steps'; known: payoff"),
    ],
)
def test_a_wrong_name_or_option_is_an_error_that_names_it(name: str, options: dict[str, Any], message: str) -> None:
    for check in (lambda: envs.check_options(name, options), lambda: envs.make(name, **options)):
        with pytest.raises(ConfigError, match=f"^{message}$"):
            check()


def test_options_are_converted_and_completed() -> None:
    assert envs.check_options("smax_3m", {"max_steps": "1e2"}) == {
        "max_steps": 100,
        "walls_cause_death": True,
        "see_enemy_actions": True,
        "sight_range": None,
        "simulator": "fast",
    }


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_names_and_options_are_checked_without_jax() -> None:
    check = "import sys; from meigm_jax import envs; envs.check_options('smax_3m', {'max_steps': 5})"
    assert run(check + "; print('jax' in sys.modules)") == "False\n"


def test_jaxmarl_is_imported_silently_and_leaves_the_streams_alone() -> None:
    remember = "import io, sys; sys.stderr = mine = io.StringIO(); out = sys.stdout; import meigm_jax.envs.smax; "
    assert run(remember + "print(sys.stderr is mine, sys.stdout is out, mine.getvalue())") == "True True \n"
