"""experiments/benchmark.py: what is measured, what becomes of it, and our side of the measurements."""

from __future__ import annotations

import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def benchmark(experiment):
    yield experiment("benchmark")
    sys.modules.pop("benchmark_report", None)


@pytest.fixture
def measure(experiment, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no turn to wait for
    return experiment("benchmark_measure")


def test_what_is_compared_takes_turns_and_is_measured_once(benchmark, tmp_path, monkeypatch):
    seconds = {"ours": [0.5, 0.1, 0.2], "step": [0.6, 0.4, 0.5], "step_env": [0.2, 0.25, 0.3]}
    device, asked = {"name": "2 Cores", "platform": "cpu", "jax": "1.0"}, []

    def start(unit, options):
        if unit["kind"] == "device":
            return device
        asked.append((unit["env"], unit["system"]))
        return {"seconds": seconds[unit["system"]][asked.count(asked[-1]) - 1]}

    monkeypatch.setattr(benchmark, "start", start)
    assert benchmark.main(["env", "--out", str(tmp_path), "--minutes", "0"]) == 0 and asked == []
    assert benchmark.main(["env", "--out", str(tmp_path), "--repeats", "1"]) == 0
    assert benchmark.main(["env", "--out", str(tmp_path)]) == 0
    turn = [("smax_5v5", "ours"), ("smax_5v5", "step"), ("smax_5v5", "step_env")]
    assert asked[:3] == turn and asked[6:12] == turn * 2
    assert len(asked) == 2 * 3 * 3
    assert benchmark.main(["env", "--out", str(tmp_path)]) == 0 and len(asked) == 18
    # 64 x 128 steps in 0.2 s (0.1 to 0.5), 0.5 s and 0.25 s
    line = "| smax_5v5 | 64 | 40960 [16384, 81920] | 16384 [13653, 20480] | 32768 [27307, 40960] | 2.50 | 1.25 |"
    assert line in (tmp_path / "README.md").read_text().splitlines()
    assert len(json.loads((tmp_path / "2_cores.json").read_text())["units"]) == 6
    device["jax"] = "2.0"
    assert benchmark.main(["env", "--out", str(tmp_path)]) == 2 and len(asked) == 18


def test_at_once_everything_compiles_before_the_first_is_timed_and_compile_times_come_last(
    benchmark, tmp_path, monkeypatch
):
    told = []

    class Fake:
        def __init__(self, unit, options):
            self.unit = unit

        def wait_until_ready(self):
            told.append(("ready", self.unit["kind"]))

        def finish(self):
            if self.unit["kind"] == "device":
                return {"name": "GPU", "platform": "gpu", "jax": "1.0"}
            told.append(("timed", self.unit["kind"]))
            return {"seconds": 1.0, "compile": 1.0, "peak_memory": 1.0, "replay": 1.0, "flops": 1.0, "large": 1.0} | {
                key: 1.0 for key in ("narrow", "rollout", "iteration_8", "iteration_1", "gradient_step")
            }

    monkeypatch.setattr(benchmark, "Measurement", Fake)
    arguments = ["iteration", "env", "--at-once", "--quick", "--out", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    kinds = {what: [kind for w, kind in told if w == what] for what in ("ready", "timed")}
    assert kinds["ready"] == kinds["timed"] and kinds["timed"][-3:] == ["run"] * 3 and "run" not in kinds["timed"][:-3]
    first_timed = told.index(("timed", "train"))
    assert first_timed == len(kinds["timed"]) - 3 and all(what == "ready" for what, _ in told[:first_timed])
    before = len(told)
    assert benchmark.main(arguments) == 0 and len(told) == before  # nothing is measured again


def test_a_process_compiles_says_so_and_goes_on_when_told(benchmark, tmp_path, monkeypatch):
    script = tmp_path / "measure.py"
    script.write_text(
        "import json, sys\nprint('words of a library')\nprint('ready', flush=True)\n"
        "told = sys.stdin.readline()\nprint(json.dumps({'seconds': 2.0 if told else 0.0}))\n"
    )
    monkeypatch.setattr(benchmark, "MEASURE", script)
    options = benchmark.parse(["env"])
    options.cache = str(tmp_path)
    measurement = benchmark.Measurement({"kind": "env", "system": "ours"}, options)
    measurement.wait_until_ready()
    assert measurement.process.poll() is None
    assert measurement.finish() == {"seconds": 2.0}
    assert benchmark.start({"kind": "env", "system": "ours"}, options) == {"seconds": 2.0}
    script.write_text("raise SystemExit('no such unit')")
    assert benchmark.start({"kind": "env", "system": "ours"}, options) is None


def test_a_measurement_that_fails_leaves_the_others(benchmark, tmp_path, monkeypatch):
    def start(unit, options):
        if unit["kind"] == "device":
            return {"name": "GPU", "platform": "gpu", "jax": "1.0"}
        return None if unit["system"] == "step" else {"seconds": 1.0}

    monkeypatch.setattr(benchmark, "start", start)
    assert benchmark.main(["env", "--out", str(tmp_path)]) == 1
    assert "| smax_10v10 | 64 | 8192 | - | 8192 | - | 1.00 |" in (tmp_path / "README.md").read_text()


def test_times_of_training_become_costs_speeds_and_ratios(benchmark):
    plan = benchmark.Plan()
    times = {"qmix": (0.2, 0.1, 0.0125), "me_qmix": (0.25, 0.12, 0.015), "jaxmarl": (0.4, 0.16, 0.03)}
    times["qmix_stored"] = (0.18, 0.1, 0.01)
    rows = []
    for group in benchmark.iteration_groups(plan) + benchmark.seeds_groups(plan):
        for unit in group:
            if unit["kind"] == "train":
                all_steps, collecting, step = (x * unit["seeds"] for x in times[unit["system"]])
                found = {"iteration_8": all_steps, "iteration_1": all_steps, "rollout": collecting}
                rows.append({"unit": unit, "repeats": [found | {"gradient_step": step}]})
            elif unit["kind"] in ("run", "facts", "products"):
                each = {
                    "compile": 20.0,
                    "peak_memory": 2e9,
                    "replay": 1600.0,
                    "flops": 6e9,
                    "large": 4e11,
                    "narrow": 2e11,
                }
                rows.append({"unit": unit, "repeats": [each]})
    text = benchmark.report.section({"device": {"name": "d", "platform": "cpu", "jax": "1"}, "units": rows})
    lines = text.splitlines()
    assert "| iteration, gradient steps: 8, ms | 200 | 250 | 400 | 2.00 | 1.60 |" in lines
    assert "| iteration, gradient steps: 8: env steps/s | 10240 | 8192 | 5120 | 2.00 | 1.60 |" in lines
    assert "| peak memory, GB | 2 | 2 | 2 | 1.00 | 1.00 |" in lines
    assert "| 16 | 200 | 250 | 400 | 2.00 | 1.60 |" in lines  # per seed
    assert "| recomputed, the default | 1600 | 2 | 12.5 | 100 |" in lines
    assert "| stored in float16 | 1600 | 2 | 10 | 100 |" in lines
    # 6 GFLOP at 400 GFLOP/s are 15 ms
    assert "| JaxMARL's QMIX | - | 160 | - | 6.00 | 15 | 30 | 0.50 |" in lines


def test_whatever_is_planned_is_a_valid_run_of_ours(benchmark, measure):
    plans = [benchmark.Plan(), benchmark.SMOKE]
    groups = [group for plan in plans for table in benchmark.GROUPS.values() for group in table(plan)]
    units = [unit for group in groups for unit in group if unit["kind"] == "train" and unit["system"] != "jaxmarl"]
    assert {unit["seeds"] for unit in units} == {1, 2, 4, 8, 16} and {unit["num_envs"] for unit in units} >= {8, 1024}
    for unit in units:
        config = measure.our_config(unit, 8)
        assert config.replay.observations == ("stored" if unit["system"] == "qmix_stored" else None)
        iterations = -(-config.train.warmup_sequences // config.train.num_envs) - 1  # that only collect
        assert iterations == (unit["batch_size"] - 1 if unit["gradient_steps"] else unit["iterations"])


@pytest.mark.parametrize(
    "model, name, file",
    [
        ("Intel(R) Xeon(R) Processor @ 2.10GHz", "Intel Xeon", "intel_xeon_2_cores"),
        ("AMD EPYC 9R14 96-Core Processor", "AMD EPYC 9R14", "amd_epyc_9r14_2_cores"),
        ("13th Gen Intel(R) Core(TM) i7-1370P", "13th Gen Intel Core i7-1370P", "13th_gen_intel_core_i7_1370p_2_cores"),
    ],
)
def test_results_are_named_after_the_processor(benchmark, measure, model, name, file):
    assert measure.short_name(model) == name
    assert benchmark.report.slug({"name": f"{name}, 2 cores"}) == file


def test_a_wrong_path_of_the_peer_is_one_line(benchmark, tmp_path, capsys):
    assert benchmark.main(["env", "--jaxmarl", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "baselines/QLearning/qmix_rnn.py" in line and "checkout" in line


def test_the_environment_alone_plays_on_past_the_end_of_episodes(measure):
    game = measure.ours("matrix_game", measure.pool_size("matrix_game", 6))
    _, episodes = jax.jit(jax.vmap(lambda key: measure.play(game, 6, key)))(jax.random.split(jax.random.key(0), 2))
    assert episodes.tolist() == [6, 6]  # each has one step
    counting = measure.Game(  # an episode counts to 3
        lambda key: (jnp.int32(0), jnp.ones((1, 2))),
        lambda key, state, action: (state + 1, jnp.ones((1, 2)), (state == 2, state)),
        lambda state, at: at > 0,
        lambda results: results[0],
        4,
    )
    used, episodes = jax.jit(lambda key: measure.play(counting, 7, key))(jax.random.key(0))
    assert episodes == 2 and used == 7 * 2 + 2 + (0 + 1 + 2) * 2 + 0  # readings, ends, states


def test_our_trainer_is_timed_with_and_without_gradient_steps(measure):
    unit = {
        "system": "qmix", "env": "matrix_game", "seeds": 1, "num_envs": 2, "length": 4, "batch_size": 2,
        "capacity": 8, "gradient_steps": [2], "iterations": 2, "rounds": 1,
    }  # fmt: skip
    found = measure.train_seconds(unit)
    assert found["rollout"] > 0 and found["iteration_2"] > 0
    assert found["gradient_step"] == (found["iteration_2"] - found["rollout"]) / 2
    with pytest.raises(RuntimeError, match="0 of 2 iterations have learnt, not 2"):
        measure.check_learnt({"loss_td": np.full((2, 1), np.nan)}, 2, 2)
    facts = measure.facts(unit)
    agents = measure.envs.make("matrix_game").spec.num_agents
    assert facts["flops"] > 2 * 4 * 2 * agents * 64 * 192  # at least the recurrent layer, once
    _, state = measure.begin(unit, 1)
    stored = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.replay))
    assert facts["replay"] == stored / (8 * 4)
