"""JaxMARL's own QMIX at its published settings beside ours: greedy win rate over env steps, and over wall time.

    python experiments/peer.py smax_3m --jaxmarl PATH                # PATH: a checkout of JaxMARL
    python experiments/peer.py smax_3m smax_5v5 --jaxmarl PATH --steps 2e6 --seeds 3
    python experiments/peer.py                                       # only the page

The peer is baselines/QLearning/qmix_rnn.py with config/alg/ql_rnn_smax.yaml as they are (a GRU of width 512), but for
the map, the env steps and the seeds; what it would send to Weights & Biases is read instead. A unit is one map and one
trainer; one that is in the results with as many env steps and seeds is not run again. Results go to
experiments/results/peer.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pages
from benchmark import problem_with_peer
from benchmark_measure import imported, jaxmarl_map
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from study import mean_with_interval

from meigm_jax import plot, train

RESULTS = Path(__file__).parent / "results" / "peer"
EVALUATIONS, EPISODES = 20, 512  # as in the peer's settings: every 5 % of a training
PEER, OURS = "JaxMARL's QMIX", ("qmix", "me_qmix")


class Row(NamedTuple):
    """One evaluation of one seed."""

    system: str
    seed: int
    env_steps: int
    seconds: float  # of wall time and seed: ours train together, the peer's seeds one after the other
    win_rate: float
    device: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", metavar="MAP", help="smax_3m, smax_5v5, ...; none: only the page")
    parser.add_argument("--jaxmarl", type=Path, metavar="PATH", help="JaxMARL's repository, checked out")
    parser.add_argument("--steps", type=float, default=4e5, help="env steps per seed")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if problem := problem_with_peer(options.jaxmarl):
        parser.error(problem)
    if options.envs and options.jaxmarl is None:
        parser.error("--jaxmarl: expected a checkout of JaxMARL's repository")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for env in options.envs:
        for system in (*OURS, PEER):
            if not finished(read(env), system, options):
                found = peer(env, options) if system == PEER else ours(env, system, options)
                keep(env, system, found)
            write()
    write()
    return 0


def finished(rows: list[Row], system: str, options: argparse.Namespace) -> bool:
    mine = [row for row in rows if row.system == system]
    last = max((row.env_steps for row in mine), default=0)
    return last >= 0.95 * options.steps and len({row.seed for row in mine}) >= options.seeds


def ours(env: str, algo: str, options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        sizes = {"interval": int(options.steps / EVALUATIONS), "episodes": EPISODES, "final_episodes": EPISODES}
        arguments = [f"+env={env}", f"algo={algo}", f"seeds={options.seeds}", f"total_env_steps={options.steps:.0f}"]
        arguments += [*(f"evaluation.{key}={value}" for key, value in sizes.items()), f"run_dir={run_dir}"]
        if code := train.main(arguments):
            raise SystemExit(code)
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        return [
            Row(algo, row["seed"], row["env_steps"], row["wall_time"] / options.seeds, row["win_rate"], device())
            for row in lines
            if row["kind"] == "eval"
        ]


def peer(env: str, options: argparse.Namespace) -> list[Row]:
    """Its seeds one after the other in one compiled program; compilation counts for the first."""
    from omegaconf import OmegaConf

    folder = options.jaxmarl / "baselines" / "QLearning"
    module: Any = imported(folder / "qmix_rnn.py")
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config" / "alg" / "ql_rnn_smax.yaml"))
    config |= {"MAP_NAME": jaxmarl_map(env), "TOTAL_TIMESTEPS": options.steps, "WANDB_MODE": "read", "SEED": 0}
    sent: list[tuple[float, dict[str, float]]] = []
    module.wandb = SimpleNamespace(log=lambda metrics: sent.append((time.perf_counter(), dict(metrics))))
    world, _ = module.env_from_config(config)
    program, rows = jax.jit(module.make_train(config, world)), []
    for seed in range(options.seeds):
        sent.clear()
        start = time.perf_counter()
        jax.block_until_ready(program(jax.random.PRNGKey(seed)))
        jax.effects_barrier()
        every = int(len(sent) / EVALUATIONS)
        for now, metrics in sorted(sent, key=lambda each: each[0]):
            if int(metrics["update_steps"]) % every == 0:
                win_rate = float(metrics["test_returned_won_episode"])
                rows.append(Row(PEER, seed, int(metrics["env_step"]), now - start, win_rate, device()))
    return rows


def device() -> str:
    """What this process trains on."""
    return f"{len(os.sched_getaffinity(0))} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"


def read(env: str) -> list[Row]:
    path = RESULTS / f"{env}.csv"
    if not path.exists():
        return []
    with path.open() as file:
        rows = list(csv.reader(file))[1:]
        return [Row(r[0], int(r[1]), int(r[2]), float(r[3]), float(r[4]), r[5]) for r in rows]


def keep(env: str, system: str, found: list[Row]) -> None:
    others = [row for row in read(env) if row.system != system]
    with (RESULTS / f"{env}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows([*r[:3], f"{r.seconds:.1f}", f"{r.win_rate:.4f}", r.device] for r in others + found)


def write() -> None:
    """The page and its figures."""
    text = [
        INTRO,
        "\n".join(table()),
        "; ".join(sorted({row.device for path in RESULTS.glob("*.csv") for row in read(path.stem)})),
    ]
    for path in sorted(RESULTS.glob("*.csv")):
        draw(path.stem)
        text.append(f"![{path.stem}]({path.stem}.png)")
    pages.write(RESULTS, "\n\n".join(text) + "\n")


INTRO = f"""# JaxMARL's QMIX at its published settings, and ours

Made by `python experiments/peer.py`. Greedy win rates of {EPISODES} episodes, every 5 % of the env steps. The peer's
exploration ends after a tenth of the env steps, whatever their number, as in its settings. Seconds are wall time per
seed, compilation included. *Overtakes*: the first evaluation from which ours has the peer's last win rate."""


def table() -> list[str]:
    rows = [
        "| map | trainer | seeds | env steps | win rate | s per seed | overtakes after |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.csv")):
        found = {system: curve(read(path.stem), system) for system in (PEER, *OURS)}
        goal = found[PEER][2][:, -1].mean() if PEER in found and found[PEER][0].size else np.nan
        for system, (steps, seconds, rates) in found.items():
            if steps.size:
                at = np.flatnonzero(rates.mean(axis=0) >= goal)
                when = f"{steps[at[0]]} env steps, {seconds[at[0]]:.0f} s" if at.size and system != PEER else "-"
                cells = (path.stem, system, len(rates), steps[-1], final(rates[:, -1]), f"{seconds[-1]:.0f}", when)
                rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def final(rates: np.ndarray) -> str:
    """Mean over seeds, with its interval where there are several."""
    return mean_with_interval(rates) if len(rates) > 1 else f"{rates[0]:.3f}"


def curve(rows: list[Row], system: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Env steps [K], mean seconds [K], win rates [S, K]."""
    mine = [row for row in rows if row.system == system]
    seeds, steps = sorted({row.seed for row in mine}), sorted({row.env_steps for row in mine})
    of = {(row.seed, row.env_steps): row for row in mine}
    steps = [step for step in steps if all((seed, step) in of for seed in seeds)]
    seconds, rates = ([[getattr(of[s, t], k) for t in steps] for s in seeds] for k in ("seconds", "win_rate"))
    return np.array(steps), np.array(seconds).mean(axis=0) if seeds else np.array([]), np.array(rates)


def draw(env: str) -> None:
    """Win rate over env steps, and over seconds."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, label in zip(figure.subplots(1, 2, sharey=True), ("env steps per seed", "seconds per seed"), strict=True):
        for system, colour in zip((PEER, *OURS), ("#000000", "#0072B2", "#D55E00"), strict=True):
            steps, seconds, rates = curve(read(env), system)
            if steps.size:
                x = steps if label.startswith("env") else seconds
                axes.plot(x, rates.mean(axis=0), color=colour, label=system, marker="o", markersize=3)
        axes.set(xlabel=label, ylim=(0, 1), title=env)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("greedy win rate")
    figure.axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.axes[1].set_xscale("log")
    figure.axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    figure.axes[1].xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.axes[1].xaxis.set_minor_formatter(NullFormatter())
    figure.axes[0].legend(frameon=False)
    plot.draw(RESULTS / f"{env}.png", figure)


if __name__ == "__main__":
    raise SystemExit(main())
