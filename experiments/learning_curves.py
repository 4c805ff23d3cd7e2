"""Evaluation over training, several algorithms and seeds per environment: curves, CSV and a table.

    python experiments/learning_curves.py smax_3m --algos qmix me_qmix --seeds 3 --steps 2e6

One unit is one environment and one algorithm; `random` among the algorithms plays uniformly and learns nothing. A unit
that was interrupted goes on where it was saved, a finished one is not run again. Runs become CSV files, and figures and
table are made from these. Runs go to experiments/runs/learning_curves, results to experiments/results/learning_curves.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from meigm_jax import plot, train
from meigm_jax.runs import curves

HERE = Path(__file__).parent
RUNS = HERE / "runs" / "learning_curves"
RESULTS = HERE / "results" / "learning_curves"
RANDOM = (
    "algo=qmix",
    "algo.name=random",
    "hyper.epsilon_start=1",
    "hyper.epsilon_end=1",
    "evaluation.policies=[sampled]",
    "total_env_steps=1",
)
COLUMNS = {"400k": 400_000, "1M": 1_000_000, "2M": 2_000_000, "5M": 5_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", help="environments, such as smax_3m; none: only redraw")
    parser.add_argument("--algos", nargs="+", default=["qmix", "me_qmix"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=2e6, help="env steps per seed")
    parser.add_argument("--episodes", type=int, default=256, help="episodes per seed, policy and evaluation")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further options of the trainer")
    options = parser.parse_args()
    for env in options.envs:
        for algo in options.algos:
            run_unit(env, algo, options)
    for folder in sorted(RUNS.glob("*")):
        if runs := [run for run in sorted(folder.glob("*")) if evaluated(run)]:
            report(folder.name, runs)
    for path in RESULTS.glob("*.csv"):
        draw(path)
    write_readme()


def evaluated(run: Path) -> bool:
    """Whether the run has got as far as its first evaluation."""
    return (run / "metrics.jsonl").exists() and any(row["kind"] == "eval" for row in curves.read_rows(run))


def run_unit(env: str, algo: str, options: argparse.Namespace) -> None:
    """Train all seeds of one algorithm on one environment, or go on with it."""
    run_dir = RUNS / env / algo
    if (run_dir / "summary.json").exists() and algo == "random":
        return
    if (run_dir / "config.yaml").exists():
        arguments = [f"resume={run_dir}", f"total_env_steps={options.steps:.0f}"]
    else:
        arguments = [
            f"+env={env}",
            f"seeds={options.seeds}",
            *(RANDOM if algo == "random" else (f"algo={algo}", f"total_env_steps={options.steps:.0f}")),
            f"evaluation.episodes={options.episodes}",
            f"evaluation.final_episodes={options.episodes}",
            f"run_dir={run_dir}",
            *options.set,
        ]
    if code := train.main(arguments):
        raise SystemExit(code)


def report(env: str, runs: list[Path]) -> None:
    """One CSV of the environment per policy that was evaluated, and the facts about its runs.

    Units whose runs are no longer at hand stay as they are.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    members = [member for run in runs for member in curves.read_members(run)]
    for policy in {row["policy"] for member in members for row in member.rows if row["kind"] == "eval"}:
        mine = [m for m in members if any(row.get("policy") == policy for row in m.rows)]
        measure = curves.choose(mine, kind="eval", policy=policy)
        found = {line.algo: line.curve for line in curves.pool(mine, measure, print)}
        path = RESULTS / (f"{env}.csv" if policy == "greedy" else f"{env}.{policy}.csv")
        earlier = read_csv(path)[1] if path.exists() else {}
        write_csv(path, measure.metric, dict(sorted((earlier | found).items())))
    facts = {run.name: unit_facts(run) for run in runs}
    path = RESULTS / f"{env}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted((earlier | facts).items())), indent=1) + "\n")


def unit_facts(run: Path) -> dict[str, Any]:
    """What a reader needs to judge a unit: its configuration's own words and its cost."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    facts = {key: config[key] for key in ("seeds", "seed", "hyper", "train", "replay", "versions")}
    facts["episodes"] = config["evaluation"]["episodes"]
    if (run / "summary.json").exists():
        summary = json.loads((run / "summary.json").read_text())
        facts |= {key: summary[key] for key in ("env_steps", "env_steps_per_second", "wall_time")}
    return facts


def write_csv(path: Path, metric: str, found: dict[str, curves.Curve]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["algo", "member", "env_steps", metric])
        for algo, curve in found.items():
            for member, values in enumerate(curve.values):
                rows = zip(curve.env_steps, values, strict=True)
                writer.writerows([algo, member, int(step), round(float(value), 5)] for step, value in rows)


def draw(path: Path) -> None:
    """The figure of one environment and policy, beside its CSV."""
    measure, found = read_csv(path)
    if set(found) == {"random"}:
        return  # a single point, which the table tells
    lines = [curves.Line(algo, "", curve) for algo, curve in found.items()]
    plot.draw(path.with_suffix(".png"), plot.figure(lines, env_of(path), measure))


def env_of(path: Path) -> str:
    """The environment of a file that is called <env>.csv, or <env>.<policy>.csv where the policy is not greedy."""
    return path.name.split(".")[0]


def write_readme() -> None:
    """A table of every environment: the means at some env steps with intervals."""
    lines = [
        "# Learning curves",
        "",
        "Made by `python experiments/learning_curves.py`. Win rate where the environment has one, else return in its",
        "own units; mean over seeds with the 95 % Student-t interval of the mean: in the table, and as bands in the",
        "figures, which are drawn from the CSV files. The JSON files hold configuration, versions, device and cost.",
        "Steps/s are of all seeds together, measured with two units side by side on two busy CPU cores: they tell what",
        "the curves cost, not how fast the trainer can be. `random` plays uniformly and learns nothing.",
        "",
        f"| environment | policy | algorithm | seeds x episodes | {' | '.join(COLUMNS)} | last | steps/s |",
        f"|---|---|---|---|{'---|' * len(COLUMNS)}---|---|",
    ]
    for path in sorted(RESULTS.glob("*.csv")):
        facts = json.loads((RESULTS / f"{env_of(path)}.json").read_text())
        measure, found = read_csv(path)
        for algo, curve in found.items():
            cells = [cell(curve, steps) for steps in COLUMNS.values()]
            fact, last = facts[algo], int(curve.env_steps[-1])
            if algo == "random":
                fact = fact | {"env_steps_per_second": 0}
            at = "" if algo == "random" else f" at {last / 1e6:.2g}M"
            cells.append(f"{cell(curve, last)}{at}")
            speed = f"{fact['env_steps_per_second']:.0f}" if fact.get("env_steps_per_second") else ""
            size = f"{fact['seeds']} x {fact['episodes']}"
            lines.append(f"| {env_of(path)} | {measure.policy} | {algo} | {size} | {' | '.join(cells)} | {speed} |")
    lines += ["", *(line for path in sorted(RESULTS.glob("*.json")) for line in differences(path))]
    for path in sorted(RESULTS.glob("*.png")):
        policy = " (sampled policy)" if ".sampled." in path.name else ""
        lines += ["", f"![{env_of(path)}{policy}]({path.name})"]
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n")


def differences(path: Path) -> list[str]:
    """Where the algorithms of one environment learnt with other numbers than each other; random play aside."""
    facts = {algo: fact for algo, fact in json.loads(path.read_text()).items() if algo != "random"}
    lines = []
    keys = {(section, key) for fact in facts.values() for section in ("hyper", "train") for key in fact[section]}
    for section, key in sorted(keys):
        algos_of: dict[Any, list[str]] = {}
        for algo, fact in facts.items():
            if key in fact[section]:  # earlier versions had fewer
                algos_of.setdefault(fact[section][key], []).append(algo)
        if len(algos_of) > 1:
            values = "; ".join(f"{value} for {', '.join(algos)}" for value, algos in algos_of.items())
            lines.append(f"- {path.stem}, `{section}.{key}`: {values}")
    return lines


def read_csv(path: Path) -> tuple[curves.Measure, dict[str, curves.Curve]]:
    """What was measured, and each algorithm's curve."""
    with path.open() as file:
        header, *rows = list(csv.reader(file))
    assert header[:3] == ["algo", "member", "env_steps"]
    found = {}
    for algo in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == algo]
        steps = sorted({int(row[2]) for row in mine})
        members = sorted({int(row[1]) for row in mine})
        values = {(int(row[1]), int(row[2])): float(row[3]) for row in mine}
        found[algo] = curves.Curve(np.array(steps), np.array([[values[m, t] for t in steps] for m in members]))
    policy = "greedy" if path.stem == env_of(path) else path.stem.split(".")[1]
    return curves.Measure(header[3], "eval", policy), found


def cell(curve: curves.Curve, steps: int) -> str:
    """The evaluation at `steps`, give or take the size of an iteration, or a dash."""
    slack = 20_000
    at = [k for k, s in enumerate(curve.env_steps) if abs(s - steps) <= slack]
    if not at:
        return "-"
    found = curves.interval(curve.values[:, at[-1:]])
    digits = 3 if abs(found.mean[0]) < 2 else 1
    return f"{found.mean[0]:.{digits}f} [{found.low[0]:.{digits}f}, {found.high[0]:.{digits}f}]"


if __name__ == "__main__":
    main()
