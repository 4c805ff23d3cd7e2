"""Our trainer beside JaxMARL's QMIX (baselines/QLearning/qmix_rnn.py) on SMAX: speed, memory, and how both scale.

    python experiments/benchmark.py --jaxmarl PATH                     # all tables; PATH: a checkout of JaxMARL
    python experiments/benchmark.py env iteration --jaxmarl PATH       # some of them
    python experiments/benchmark.py env iteration --quick --minutes 9  # what fits into ten minutes
    python experiments/benchmark.py env iteration seeds --at-once --jaxmarl PATH  # a GPU that has many CPU cores beside

Tables: `env` (the environment alone), `iteration` (collecting and learning, compile time, memory, limits), `seeds`,
`envs` and `agents` (how it scales). Every measurement is a process of its own, what is compared takes turns (A B A B),
and what is in the results is not measured again: `--again` for that, as after a change of the code. --at-once lets all
processes compile side by side and times them one after another: on a GPU most of the time is compilation. Without
--jaxmarl the peer's trainer is left out. Results go to experiments/results/benchmark: a JSON file and a figure per
device, and the tables in README.md.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import benchmark_report as report

from meigm_jax.runs.devices import cores

HERE = Path(__file__).parent
RESULTS, SMOKE_RESULTS = HERE / "results" / "benchmark", HERE / "runs" / "benchmark_smoke"
MEASURE = HERE / "benchmark_measure.py"
NEEDED = ("flashbax", "hydra", "wandb")  # that the peer imports and JaxMARL does not bring along
ENV_SYSTEMS, OURS = ("ours", "step", "step_env"), ("qmix", "me_qmix")
TRAINERS = (*OURS, "jaxmarl")
STORED = "qmix_stored"  # QMIX with a replay that keeps observations
WHOLE = tuple(f"{own}_whole" for own in OURS)  # a seed on one device, where it is else split among the CPU's cores
COMPILE_QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # slow programs: smoke
Unit = dict[str, Any]
Row = dict[str, Any]  # {"unit": Unit, "repeats": [what was found, ...]}


class Plan(NamedTuple):
    """What is measured; sizes are those of JaxMARL's own settings for SMAX."""

    seeds: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds_maps: int = 1  # of `maps`, for `seeds`; beyond the first only ours, at every other point
    seeds_work: tuple[tuple[str, Any], ...] = ()  # their work, where it is not that of all
    envs: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    maps: tuple[str, ...] = (
        "smax_5v5",
        "smax_10v10",
        "smax_20v20",
    )  # the first for all, two for `env`, all for `agents`
    alone: int = 64  # environments, where they are measured alone
    num_envs: int = 16
    length: int = 128
    batch_size: int = 32
    capacity: int = 4992  # sequences: JaxMARL's 5000, in whole iterations
    small: int = 512  # sequences, where many seeds or agents have to fit into memory
    gradient_steps: tuple[int, ...] = (8, 1)
    iterations: int = 16  # that learn, per timing
    rollouts: int = 512  # sequences collected per timing of rollouts, four iterations at least
    rounds: int = 3  # timings per process: the median counts
    cores: int = 1  # among which one seed of ours is split

    def env(self, system: str, name: str, num_envs: int) -> Unit:
        sizes = {"num_envs": num_envs, "length": self.length, "rounds": self.rounds}
        return {"kind": "env", "system": system, "env": name, **sizes}

    def train(self, system: str, **others: Any) -> Unit:
        sizes = {"env": self.maps[0], "seeds": 1, "num_envs": self.num_envs, "length": self.length}
        learning = {"batch_size": self.batch_size, "capacity": self.small, "gradient_steps": [self.gradient_steps[0]]}
        work = {"iterations": self.iterations, "rounds": self.rounds}
        unit = {"kind": "train", "system": system, **sizes, **learning, **work, **others}
        return unit | self.split(unit)

    def split(self, unit: Unit) -> Unit:
        """Among how many devices a seed of ours is split: as many of the cores as divide its work."""
        if unit["system"] in (*WHOLE, "jaxmarl") or unit["seeds"] > 1:
            return {}
        fitting = [n for n in range(2, self.cores + 1) if unit["num_envs"] % n == unit["batch_size"] % n == 0]
        return {"devices": fitting[-1]} if fitting else {}

    def rollout(self, system: str, num_envs: int) -> Unit:
        iterations = max(4, self.rollouts // num_envs)
        work = {"iterations": iterations, "rounds": self.rounds if num_envs < 256 else 1}
        capacity = (iterations + 1) * num_envs
        return self.train(system, gradient_steps=[], num_envs=num_envs, capacity=capacity, **work)

    def with_seeds(self, system: str, seeds: int, name: str) -> Unit:
        if seeds == 1:
            return self.teamed(system, name) | dict(self.seeds_work)
        work = {"iterations": max(4, self.iterations // seeds), "rounds": 1, **dict(self.seeds_work)}
        return self.train(system, env=name, seeds=seeds, **work)

    def teamed(self, system: str, name: str) -> Unit:
        return self.train(system, env=name, rounds=self.rounds if name == self.maps[0] else 1)


QUICK = Plan(seeds=(1, 4, 16), envs=(16, 128, 1024))
OURS_ON_SMAX = (("batch_size", 4), ("gradient_steps", [32]))  # so that 64 seeds fit into a GPU's memory
ON_GPU = {"seeds": (1, 4, 16, 64), "seeds_maps": 2, "seeds_work": OURS_ON_SMAX, "rounds": 1}
SMOKE = Plan(
    seeds=(1, 2), envs=(2, 4), maps=("smax_3m", "smax_8m"), alone=2, num_envs=2, batch_size=4, capacity=16, small=8,
    gradient_steps=(2, 1), iterations=2, rollouts=8, rounds=1,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if problem := problem_with_peer(options.jaxmarl):
        print(f"benchmark: {problem}", file=sys.stderr)
        return 2
    if options.jaxmarl is None:
        print("without --jaxmarl PATH: JaxMARL's trainer is left out", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        options.cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", cache)
        return run(options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--jaxmarl", type=Path, metavar="PATH", help="JaxMARL's repository, checked out")
    parser.add_argument("--repeats", type=int, help="processes per measurement; default: 3, or 1 with --quick, --smoke")
    parser.add_argument("--again", action="store_true", help="measure these tables again")
    parser.add_argument("--quick", action="store_true", help="once, and fewer points on the curves")
    parser.add_argument("--at-once", action="store_true", help="compile side by side, time one after another")
    parser.add_argument("--smoke", action="store_true", help="everything tiny: only to see that it works")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after these, start nothing new")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args(arguments)
    if unknown := [table for table in options.tables if table not in GROUPS]:
        parser.error(f"unknown table '{unknown[0]}'; tables: {', '.join(GROUPS)}")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {options.repeats}")
    options.plan = SMOKE if options.smoke else QUICK if options.quick else Plan()
    options.repeats = options.repeats or (1 if options.smoke or options.quick else 3)
    options.out = options.out or (SMOKE_RESULTS if options.smoke else RESULTS)
    options.end = time.monotonic() + 60 * options.minutes
    return options


def problem_with_peer(path: Path | None) -> str | None:
    """One line on why the peer can't be measured, if so."""
    if path is None:
        return None
    if not (path / "baselines" / "QLearning" / "qmix_rnn.py").is_file():
        return f"--jaxmarl: no baselines/QLearning/qmix_rnn.py in '{path}'; expected a checkout of JaxMARL's repository"
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        names = " ".join({"hydra": "hydra-core"}.get(name, name) for name in missing)
        return f"JaxMARL's trainer needs what is not installed here: pip install --no-deps {names}"
    return None


def env_groups(plan: Plan) -> list[list[Unit]]:
    return [[plan.env(system, name, plan.alone) for system in ENV_SYSTEMS] for name in plan.maps[:2]]


def iteration_groups(plan: Plan) -> list[list[Unit]]:
    def each(kind: str, steps: tuple[int, ...]) -> list[Unit]:
        sizes = {"capacity": plan.capacity, "gradient_steps": list(steps)}
        return [
            plan.train(system, kind=kind, **sizes) for system in (*TRAINERS, STORED, *(WHOLE if plan.cores > 1 else ()))
        ]

    alone = [plan.env(system, plan.maps[0], plan.num_envs) for system in ENV_SYSTEMS]
    products: Unit = {"kind": "products", "system": "ours", "rounds": 10}
    first = plan.gradient_steps[:1]
    return [each("train", plan.gradient_steps), each("run", first), each("facts", first), alone, [products]]


def seeds_groups(plan: Plan) -> list[list[Unit]]:
    first, *others = plan.maps[: plan.seeds_maps]
    groups = [[plan.with_seeds(system, seeds, first) for system in TRAINERS] for seeds in plan.seeds]
    fewer = plan.seeds[::2]
    return groups + [[plan.with_seeds(own, seeds, name) for own in OURS] for name in others for seeds in fewer]


def envs_groups(plan: Plan) -> list[list[Unit]]:
    alone = [[plan.env(system, plan.maps[0], n) for system in ENV_SYSTEMS] for n in plan.envs]
    return [*alone, *([plan.rollout(system, n) for system in ("qmix", "jaxmarl")] for n in plan.envs)]


def agents_groups(plan: Plan) -> list[list[Unit]]:
    alone = [[plan.env(system, name, plan.alone) for system in ENV_SYSTEMS] for name in plan.maps]
    return [*alone, *([plan.teamed(system, name) for system in TRAINERS] for name in plan.maps)]


GROUPS = {
    "env": env_groups,
    "iteration": iteration_groups,
    "seeds": seeds_groups,
    "envs": envs_groups,
    "agents": agents_groups,
}


def run(options: argparse.Namespace) -> int:
    """Measure what is missing; 1 if any measurement failed."""
    here = start({"kind": "device"}, options)
    if here is None:
        return 1
    path = options.out / f"{report.slug(here)}.json"
    results = json.loads(path.read_text()) if path.exists() else {"device": here, "units": []}
    if results["device"] != here:
        old, new = (", ".join(f"{k} {v}" for k, v in each.items()) for each in (results["device"], here))
        print(f"benchmark: {path} is from {old}; this is {new}: choose another --out, or delete it", file=sys.stderr)
        return 2
    if options.jaxmarl is not None:
        results["peer"] = commit(options.jaxmarl)
    plan = options.plan
    if here["platform"] == "cpu":
        plan = plan._replace(cores=cores())
    elif not options.smoke:
        plan = plan._replace(**ON_GPU)
    groups = [group for table in options.tables or GROUPS for group in GROUPS[table](plan)]
    if options.again:
        asked = [unit for group in groups for unit in group]
        results["units"] = [row for row in results["units"] if row["unit"] not in asked]
    failed: list[Unit] = []
    for group in batches(groups) if options.at_once else groups:
        measure(group, results["units"], options, failed, lambda: path.write_text(dump(results)))
        report.write(options.out)
    return 1 if failed else 0


def batches(groups: list[list[Unit]]) -> list[list[Unit]]:
    """What compiles at once: everything that is timed, then those whose compilation is."""
    units = list({json.dumps(unit): unit for group in groups for unit in group}.values())
    return [[unit for unit in units if (unit["kind"] == "run") == compiling] for compiling in (False, True)]


def measure(
    group: list[Unit], rows: list[Row], options: argparse.Namespace, failed: list[Unit], save: Callable[[], Any]
) -> None:
    """Measure the units of a group by turns, until each has its repeats."""
    for repeat in range(options.repeats):
        missing = [unit for unit in group if unit not in failed and wanted(unit, repeat, rows, options)]
        if options.at_once and time.monotonic() <= options.end:
            started = {json.dumps(unit): Measurement(unit, options) for unit in missing}
            for each in started.values():
                each.wait_until_ready()
        else:
            started = {}
        for unit in missing:
            each = started.get(json.dumps(unit))
            if time.monotonic() > options.end:
                if each is not None:
                    each.process.kill()
                continue
            found = start(unit, options) if each is None else each.finish()
            if found is None:
                failed.append(unit)
                continue
            row = row_of(rows, unit)
            if not row["repeats"]:
                rows.append(row)
            row["repeats"].append(found)
            save()


def wanted(unit: Unit, repeat: int, rows: list[Row], options: argparse.Namespace) -> bool:
    """Whether it is measured, and not often enough yet."""
    needless = repeat > 0 and unit["kind"] == "facts"
    absent = unit["system"] == "jaxmarl" and options.jaxmarl is None
    return not needless and not absent and len(row_of(rows, unit)["repeats"]) <= repeat


def row_of(rows: list[Row], unit: Unit) -> Row:
    """The unit's row, or a new one that is not among `rows` yet."""
    return next((row for row in rows if row["unit"] == unit), {"unit": unit, "repeats": []})


def start(unit: Unit, options: argparse.Namespace) -> dict[str, Any] | None:
    """Measure in a process of its own; None, and its last words on stderr, when that fails."""
    return Measurement(unit, options).finish()


class Measurement:
    """A process that measures a unit; it compiles at once, and waits to be told to go on."""

    def __init__(self, unit: Unit, options: argparse.Namespace) -> None:
        sent = unit | ({} if options.jaxmarl is None else {"jaxmarl": str(options.jaxmarl.resolve())})
        self.label = " ".join(f"{key}={value}" for key, value in unit.items())
        self.began, self.said = time.monotonic(), ""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(MEASURE), json.dumps(sent)],
            env=environment(unit, options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Until it is compiled, or has ended."""
        assert self.process.stdout is not None
        while not self.said.endswith("ready\n") and (line := self.process.stdout.readline()):
            self.said += line

    def finish(self) -> dict[str, Any] | None:
        """Let it go on, and return what it found."""
        said = self.said + self.process.communicate("\n")[0]
        if self.process.returncode:
            self.errors.seek(0)
            last = "\n".join(self.errors.read().strip().splitlines()[-3:])
            text = f"benchmark: failed with {self.process.returncode}: {self.label}\n{last}"
            print(text, file=sys.stderr, flush=True)
            return None
        found = json.loads(said.strip().splitlines()[-1])
        print(f"{time.monotonic() - self.began:4.0f} s  {self.label}: {found}", flush=True)
        return found


def environment(unit: Unit, options: argparse.Namespace) -> dict[str, str]:
    """Of a measuring process. Compiled programs are kept for its repeats, but where compiling is measured."""
    kept = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    kept["WANDB_MODE"] = "disabled"
    if options.smoke:
        kept["XLA_FLAGS"] = f"{kept.get('XLA_FLAGS', '')} {COMPILE_QUICKLY}"
    if unit["kind"] == "run":
        return kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return kept | {"JAX_COMPILATION_CACHE_DIR": options.cache}


def commit(path: Path) -> str:
    """The commit that is checked out there."""
    done = subprocess.run(["git", "-C", str(path), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def dump(results: dict[str, Any]) -> str:
    """JSON with one line per unit."""
    head = {key: value for key, value in results.items() if key != "units"}
    lines = ",\n".join(json.dumps(row) for row in results["units"])
    return f'{json.dumps(head)[:-1]}, "units": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
