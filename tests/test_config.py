"""The strict builder, and the YAML files that it reads."""

from __future__ import annotations

import re
from typing import Any

import pytest

from meigm_jax.config import (
    Config,
    build,
    grid,
    members,
    members_in_words,
    num_iterations,
    num_members,
    steps_per_iteration,
    to_dict,
)
from meigm_jax.envs import BY_ID, NAMES, SUITES
from meigm_jax.registry import ConfigError
from meigm_jax.train import Job, configure, parse, plan
from meigm_jax.usage import choices

BY_NAME = [name for name in choices("env") if name != BY_ID]  # that one needs an id
ONE_EACH = [names[0] for names in SUITES if names[0] != BY_ID]


def compose(*arguments: str) -> Config:
    return configure(*arguments)


@pytest.fixture(scope="module")
def default() -> Config:
    return compose("+env=smax_3m")


@pytest.fixture(scope="module")
def composed() -> list[Job]:
    """Every algorithm with one environment of each suite, and every environment with the default algorithm."""
    pairs = plan(parse([f"env={','.join(ONE_EACH)}", f"algo={','.join(choices('algo'))}"]))
    by_id = plan(parse(["env=jaxmarl", "env.id=switch_riddle"]))
    return pairs + plan(parse([f"env={','.join(BY_NAME)}"])) + by_id


def changed(config: Config, path: str, value: Any) -> dict[str, Any]:
    tree = to_dict(config)
    node = tree
    *parents, last = path.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+env=smax_3m", "algo=qmix,vdn"], "configure: expected one run, got 2"),
        (["resume=runs/smax_3m"], "configure: expected the arguments of a new run"),
        (["+env=smax_3m", "--dry-run"], "configure: expected the arguments of a new run"),
        (["+env=smax_3m", "seeds=0"], "seeds: expected an integer of at least 1, got 0"),
    ],
)
def test_configure_takes_the_arguments_of_one_new_run(arguments, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        configure(*arguments)


def test_every_file_names_what_it_configures(composed: list[Job]) -> None:
    names = {(job.config.env.name, job.config.algo.name) for job in composed}
    expected = {(env, algo) for env in ONE_EACH for algo in choices("algo")}
    assert names == expected | {(env, "me_qmix") for env in [*BY_NAME, "jaxmarl_switch_riddle"]}


def test_configurations_survive_plain_containers(composed: list[Job]) -> None:
    for job in composed:
        assert build(to_dict(job.config)) == job.config


def test_every_environment_has_a_yaml() -> None:
    assert set(choices("env")) == set(NAMES)


def test_variants_differ_from_me_qmix_in_what_they_name(composed: list[Job]) -> None:
    by_name = {job.config.algo.name: job.config for job in composed if job.config.env.name == "matrix_game"}
    base = by_name["me_qmix"]
    expected = {
        "me_vdn": {"mixer"},
        "me_qmix_two_layer": {"opt"},
        "me_qmix_mlp": {"opt"},
        "entropy_qmix": {"opt"},
        "me_qmix_fixed": {"temperature"},
        "qmix": {"rule", "opt", "temperature"},
        "vdn": {"rule", "opt", "temperature", "mixer"},
    }
    for name, parts in expected.items():
        algo = by_name[name].algo
        differing = {part for part in ("rule", "agent", "mixer", "opt", "temperature")
                     if getattr(algo, part) != getattr(base.algo, part)}  # fmt: skip
        assert differing == parts, name


@pytest.mark.parametrize("env", ["matrix_game", "smax_3m"])
def test_what_an_algorithm_is_named_for_holds_on_every_environment(env: str) -> None:
    assert compose(f"+env={env}", "algo=me_qmix_fixed").hyper["alpha_start"] == 0.03
    assert compose(f"+env={env}", "algo=qmix_long_epsilon").hyper["epsilon_decay_steps"] == 500_000
    assert compose("algo=qmix_long_epsilon", f"env={env}") == compose(f"env={env}", "algo=qmix_long_epsilon")


def test_a_part_and_its_options_may_be_given_in_any_order() -> None:
    named, option = "algo.mixer=qatten", "algo.mixer.embed_dim=64"
    config = compose("+env=smax_3m", option, named)
    assert config == compose("+env=smax_3m", named, option)
    assert config.algo.mixer is not None
    assert (config.algo.mixer.name, config.algo.mixer.options["embed_dim"]) == ("qatten", 64)


@pytest.mark.parametrize("algo", ["qmix", "me_qmix"])
def test_a_temperature_must_fit_where_it_is_read(algo: str) -> None:
    assert compose("+env=smax_3m", f"algo={algo}", "hyper.alpha_end=5").hyper["alpha_end"] == 5
    with pytest.raises(ConfigError, match=r"hyper\.alpha_end: expected a number from hyper\.alpha_min"):
        compose("+env=smax_3m", "algo=me_qmix", "algo.temperature=schedule", "hyper.alpha_end=5")


def test_the_command_line_wins_over_environment_and_algorithm() -> None:
    config = compose("hyper.epsilon_decay_steps=7", "env.reward_scale=3", "+env=smax_3m", "algo=qmix_long_epsilon")
    assert (config.hyper["epsilon_decay_steps"], config.env.reward_scale) == (7.0, 3.0)


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments_build_on_every_suite(name: str) -> None:
    assert len(plan(parse([f"+experiment={name}", "+env=smax_5v5,matrix_game"]))) == 2


@pytest.mark.parametrize(
    ("text", "steps"), [("1e7", 10_000_000), ("2_000_000", 2_000_000), ("4096.0", 4096), ("'1e4'", 10_000)]
)
def test_whole_numbers_may_be_written_as_floats(text: str, steps: int) -> None:
    config = compose("+env=smax_3m", f"total_env_steps={text}")
    assert config.total_env_steps == steps
    assert type(config.total_env_steps) is int


def test_a_part_may_be_named_by_its_name_alone() -> None:
    assert compose("+env=smax_3m", "algo.mixer=vdn") == compose("+env=smax_3m", "algo.mixer.name=vdn")


def test_members_are_the_points_of_the_grid_each_with_every_seed() -> None:
    config = compose("+env=smax_3m", "seed=7", "seeds=2", "sweep.lr=[1e-3,'3e-4']", "sweep.gamma=[1,0.9]")
    points = [{"learning_rate": rate, "gamma": gamma} for rate in (1e-3, 3e-4) for gamma in (1.0, 0.9)]
    assert grid(config) == points
    assert members(config) == [(seed, point) for point in points for seed in (7, 8)]
    assert num_members(config) == 8
    assert members_in_words(config) == "8 members (4 points of the sweep x 2 seeds)"
    assert build(to_dict(config)) == config
    assert config == compose("+env=smax_3m", "seed=7", "seeds=2", "sweep={lr:[1e-3,3e-4],gamma:[1,0.9]}")
    alone = compose("+env=smax_3m", "seed=7")
    assert (members(alone), num_members(alone), members_in_words(alone)) == ([(7, {})], 1, "1 seed")


def test_short_names_are_those_of_the_hypers() -> None:
    assert compose("+env=smax_3m", "hyper.opt_lr=0.5").hyper["opt_learning_rate"] == 0.5
    assert compose("+env=smax_3m", "sweep.alpha_lr=[0.5]").sweep == {"alpha_learning_rate": (0.5,)}


def test_iterations_reach_the_total(default: Config) -> None:
    per_iteration = steps_per_iteration(default)
    assert per_iteration == default.train.num_envs * default.train.chunk_length
    for total, iterations in [(1, 1), (per_iteration, 1), (per_iteration + 1, 2)]:
        assert num_iterations(build(changed(default, "total_env_steps", total))) == iterations


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", -1, "seed: expected an integer from 0"),
        ("seeds", 0, "seeds: expected an integer of at least 1"),
        ("seeds", True, "seeds: expected int"),
        ("seeds", 2**31 + 1, "seed + seeds must be at most 2^31"),
        ("total_env_steps", 2**31, "total_env_steps: expected an integer from 1"),
        ("total_env_steps", float("inf"), "total_env_steps: expected int"),
        ("name", "../x", "name: expected the name of a folder"),
        ("run_dir", "", "run_dir: expected a path"),
        ("env.reward_scale", 0, "env.reward_scale: expected a number above 0"),
        ("env.bootstrap_on_timeout", "no", "env.bootstrap_on_timeout: expected bool"),
        ("env.options", {"max_stepz": 1}, "max_steps"),
        ("hyper.gamma", float("nan"), "hyper.gamma: expected a finite number"),
        ("hyper.alpha_min", 2.0, "hyper.alpha_min: expected at most hyper.alpha_max"),
        ("hyper", {"gamma": 0.9}, "missing key 'hyper.learning_rate'"),
        ("hyper.alpha_start", 2.0, "hyper.alpha_start: expected a number from hyper.alpha_min (0.001) to"),
        ("sweep", [0.1, 0.3], "sweep: expected a section, got [0.1, 0.3]"),
        ("sweep.gamma", "", "sweep.gamma: expected a list of numbers, sweep.gamma=[A,B,...], got ''"),
        ("sweep.gamma", None, "sweep.gamma: expected a list of numbers, sweep.gamma=[A,B,...], got None"),
        ("sweep.gamma", [0.9, True], "sweep.gamma: expected float, got True"),
        ("sweep.gamma", [[0.9]], "sweep.gamma: expected float, got [0.9]"),
        ("sweep.gamma", [0.9, float("nan")], "sweep.gamma: expected a finite number, got nan"),
        ("sweep", {"lr": [0.1], "learning_rate": [0.3]}, "sweep.learning_rate: sweep.learning_rate is given twice"),
        ("sweep.alpha_start", [0.1, 2.0], "sweep: with alpha_start=2, hyper.alpha_start: expected a number from hyper"),
        (
            "evaluation.policies",
            ["greedy", "greedy"],
            "evaluation.policies: expected some of greedy, sampled, mode, each once",
        ),
        ("algo.mixer", {"embed_dim": 3}, "algo.mixer: expected a section with a name"),
        ("algo.mixer", {"name": ["qmix"]}, "algo.mixer.name: expected str"),
        ("algo.rule.entropy", "greedy", "expected one of exact, sampled"),
        ("algo", 3, "algo: expected a section"),
        ("replay.capacity", 17, "replay.capacity: expected a multiple of train.num_envs"),
        ("train.warmup_sequences", 10**6, "train.warmup_sequences: expected at most replay.capacity"),
        ("evaluation.policies", [], "evaluation.policies: expected some of greedy, sampled, mode"),
        ("evaluation.policies", ["random"], "evaluation.policies: expected one of greedy, sampled"),
        ("log.interval", None, "log.interval: expected int"),
    ],
)
def test_wrong_values_are_named(default: Config, path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(changed(default, path, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_unknown_sections_are_named(default: Config) -> None:
    tree = to_dict(default)
    del tree["replay"]
    with pytest.raises(ConfigError, match="missing key 'replay'"):
        build(tree)
    with pytest.raises(ConfigError, match=r"unknown key 'repaly'; did you mean replay\?"):
        build(to_dict(default) | {"repaly": {}})


ALGORITHMS = {  # rule, mixer, OPT, temperature
    "cw_qmix": "weighted_qmix qmix - -",
    "ddn": "quantile_mixture vdn - -",
    "dmix": "quantile_mixture qmix - -",
    "entropy_qmix": "me_igm qmix identity learned",
    "iql": "independent - - -",
    "me_qatten": "me_igm qatten affine learned",
    "me_qmix": "me_igm qmix affine learned",
    "me_qmix_fixed": "me_igm qmix affine fixed",
    "me_qmix_mlp": "me_igm qmix mlp learned",
    "me_qmix_two_layer": "me_igm qmix two_layer learned",
    "me_qplex": "me_igm qplex affine learned",
    "me_vdn": "me_igm vdn affine learned",
    "ow_qmix": "weighted_qmix qmix - -",
    "qatten": "value_decomposition qatten - -",
    "qmix": "value_decomposition qmix - -",
    "qmix_long_epsilon": "value_decomposition qmix - -",
    "qplex": "value_decomposition qplex - -",
    "qtran": "qtran - - -",
    "soft_qmix": "soft_qmix qmix affine fixed",
    "soft_qmix_code": "soft_qmix vdn affine fixed",
    "vdn": "value_decomposition vdn - -",
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_made_of_the_parts_that_its_name_promises(name):
    algo = compose("+env=smax_3m", f"algo={name}").algo
    parts = [getattr(algo, kind) for kind in ("rule", "mixer", "opt", "temperature")]
    assert " ".join("-" if part is None else part.name for part in parts) == ALGORITHMS[name]


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [  # of the papers and the authors' code, where no search has changed them
        ("", "hyper.gamma", 0.99),
        ("", "hyper.td_lambda", 0.6),
        ("", "hyper.max_grad_norm", 10.0),
        ("", "hyper.epsilon_end", 0.05),
        ("", "hyper.epsilon_decay_steps", 50_000),
        ("", "hyper.target_entropy", 0.48),
        ("", "env.reward_scale", 10.0),
        ("", "env.bootstrap_on_timeout", False),
        ("", "train.target_update_interval", 64),
        ("", "algo.agent.hidden_dim", 64),
        ("", "algo.rule.entropy", "exact"),
        ("", "algo.temperature.target_per", "alive"),
        ("", "algo.opt.mask_dead", True),
        ("", "algo.mixer.embed_dim", 32),
        ("", "algo.mixer.hypernet_dim", 64),
        ("algo=me_qmix_two_layer", "algo.opt.residual", True),
        ("algo=qplex", "algo.mixer.num_kernels", 4),
        ("algo=qatten", "algo.mixer.num_heads", 4),
        ("algo=cw_qmix", "algo.rule.weighting", "central"),
        ("algo=ow_qmix", "algo.rule.weighting", "optimistic"),
        ("algo=cw_qmix", "algo.rule.low_weight", 0.1),
        ("algo=qtran", "algo.rule.optimal_weight", 1.0),
        ("algo=qtran", "algo.rule.nonoptimal_weight", 0.1),
        ("algo=qtran", "hyper.td_lambda", 0.0),
        ("algo=dmix", "algo.rule.double_q", False),
        ("algo=soft_qmix", "algo.rule.half_weights", False),
        ("algo=soft_qmix_code", "algo.rule.half_weights", True),
        ("algo=soft_qmix_code", "hyper.alpha_start", 0.03),
    ],
)
def test_defaults(arguments, key, value):
    found: Any = to_dict(compose("+env=smax_5v5", *arguments.split()))
    for part in key.split("."):
        found = found[part]
    assert found == value
