"""The SMAC-v2 scenarios: win rates of random play, of JaxMARL's heuristic as allies, and of a briefly trained ME-QMIX.

    python experiments/scenarios.py                             # random and heuristic play of all fifteen
    python experiments/scenarios.py --train                     # ME-QMIX besides, briefly: hours on two cores
    python experiments/scenarios.py smax_zerg_5v5 --train --steps 1e6 --seeds 5
    python experiments/scenarios.py --speed                     # env steps per second beside JaxMARL's
    python experiments/scenarios.py --gif                       # an episode per race

A unit is one scenario and one policy. Each is written when it is done and not run again, unless it is to have other
episodes or more steps; training that was interrupted goes on where it was saved. Runs go to experiments/runs/scenarios,
results to experiments/results/scenarios; the table is made from the CSV files there.
"""

import argparse
import csv
import itertools
import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_measure import clock, jaxmarl_smax, ours, playing, pool_size
from scipy import stats

from meigm_jax import envs, train
from meigm_jax.engine.evaluation import evaluate, watch
from meigm_jax.envs import smacv2
from meigm_jax.envs.quiet import quiet
from meigm_jax.envs.smacv2_units import with_medivacs
from meigm_jax.ops import policies
from meigm_jax.runs import gif
from meigm_jax.types import Algorithm, Array, TimeStep

with quiet():
    from jaxmarl.environments.smax import HeuristicEnemySMAX, Scenario
    from jaxmarl.environments.smax.heuristic_enemy import create_heuristic_policy, get_heuristic_policy_initial_state

HERE = Path(__file__).parent
RUNS = HERE / "runs" / "scenarios"
RESULTS = HERE / "results" / "scenarios"
WIN_RATES, SPEEDS = RESULTS / "win_rates.csv", RESULTS / "speed.csv"
SCENARIOS = [f"smax_{race}_{size}" for race in envs.RACES for size in envs.TEAM_SIZES]
COLUMNS = ["scenario", "policy", "seed", "env_steps", "episodes", "win_rate", "return", "episode_length"]
SPEED_COLUMNS = ["scenario", "steps_per_second", "jaxmarl_steps_per_second", "num_envs", "device"]
GIF_BYTES = 300_000
NOTHING: Any = None  # what a policy that does not learn has learnt


class Brief(NamedTuple):
    """A brief training."""

    steps: float  # env steps per seed
    seeds: int
    updates: int  # gradient steps per 2048 env steps


MIDDLE, LARGE = Brief(2e5, 1, 4), Brief(1e5, 1, 2)
BRIEF = {"5v5": Brief(4e5, 2, 8), "10v10": MIDDLE, "10v11": MIDDLE, "20v20": LARGE, "20v23": LARGE._replace(steps=5e4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, help="default: all fifteen")
    parser.add_argument("--episodes", type=int, default=512, help="of random and heuristic play; of a trained seed")
    parser.add_argument("--train", action="store_true", help="train ME-QMIX")
    parser.add_argument("--steps", type=float, help="env steps per seed (default: by size)")
    parser.add_argument("--seeds", type=int, help="(default: by size)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further options of the trainer")
    parser.add_argument("--speed", action="store_true", help="measure env steps per second, and nothing else")
    parser.add_argument("--gif", action="store_true", help="draw an episode of each 5v5 scenario, and nothing else")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.scenarios:
        if options.speed:
            keep(SPEEDS, SPEED_COLUMNS, [measure(name)], {"scenario": name})
        elif options.gif and name.endswith("_5v5"):
            draw(name)
        elif not options.gif:
            for policy, algorithm in (("random", random_play), ("heuristic", heuristic_play)):
                play_unit(name, policy, algorithm, options.episodes)
        if options.train:
            train_unit(name, options)
        write_readme()


def play_unit(name: str, policy: str, make: Callable[[str], Algorithm], episodes: int) -> None:
    """Play, unless the table has as many episodes of it."""
    of = {"scenario": name, "policy": policy}
    if any(row["episodes"] == str(episodes) for row in read(WIN_RATES) if of.items() <= row.items()):
        return
    sizes = {"episodes": episodes, "num_envs": 128}
    run = jax.jit(partial(evaluate, envs.make(name), make(name), NOTHING, **sizes, policy="sampled"))
    played = {key: float(x.mean()) for key, x in run(jax.random.key(0), jnp.int32(0)).items()}
    found = {"win_rate": played["win"], "return": played["return"], "episode_length": played["episode_length"]}
    keep(WIN_RATES, COLUMNS, [of | {"seed": 0, "env_steps": 0, "episodes": episodes} | found], of)
    print(name, policy, found, flush=True)


def acting(init_carry: Callable[[int], Any], act: Callable[[Any, TimeStep, Array], tuple[Array, Any]]) -> Algorithm:
    """An Algorithm that acts and learns nothing; `act` takes carry, TimeStep[E] and uniform numbers [E, N]."""
    return Algorithm(
        init=lambda key, hyper: NOTHING,
        init_carry=init_carry,
        act=lambda learner, carry, at, noise, step, policy: act(carry, at, noise),
        update=lambda learner, *_: (learner, {}),
    )


def random_play(name: str) -> Algorithm:
    """Uniform over the available actions."""

    def act(carry: Any, at: TimeStep, noise: Array) -> tuple[Array, Any]:
        return policies.sample(policies.boltzmann(jnp.zeros(at.avail.shape), at.avail), at.avail, noise), carry

    return acting(lambda number: (), act)


def heuristic_play(name: str) -> Algorithm:
    """The enemy's policy plays the allies, too."""
    world = smacv2.world(name)
    policy, agents = create_heuristic_policy(world, 0), world.num_allies
    start = jax.tree.map(lambda x: jnp.tile(x, (agents, 1)[: jnp.ndim(x) + 1]), get_heuristic_policy_initial_state())

    def one(carry: Any, at: TimeStep, noise: Array) -> tuple[Array, Any]:
        carry = jax.tree.map(lambda first, now: jnp.where(at.first, first, now), start, carry)
        keys = jax.vmap(jax.random.key)(jax.lax.bitcast_convert_type(noise, jnp.uint32))
        actions, carry = jax.vmap(policy)(keys, carry, at.obs)
        return with_medivacs(world, jnp.arange(agents), at.obs, actions), carry

    def act(carry: Any, at: TimeStep, noise: Array) -> tuple[Array, Any]:
        return jax.vmap(one)(carry, at, noise)

    return acting(lambda number: jax.tree.map(lambda x: jnp.tile(x, (number,) + (1,) * x.ndim), start), act)


def train_unit(name: str, options: argparse.Namespace) -> None:
    """Train ME-QMIX, or go on with it, and keep every seed's last evaluation."""
    run_dir = RUNS / name
    brief = BRIEF[name.split("_")[-1]]
    arguments = [f"total_env_steps={options.steps or brief.steps:.0f}"]
    if (run_dir / "config.yaml").exists():
        arguments.append(f"resume={run_dir}")
    else:
        final = f"evaluation.final_episodes={options.episodes}"
        arguments += [f"+env={name}", f"seeds={options.seeds or brief.seeds}", f"run_dir={run_dir}", final]
        arguments += [f"train.updates_per_chunk={brief.updates}", *options.set]
    if code := train.main(arguments):
        raise SystemExit(code)
    summary, of = json.loads((run_dir / "summary.json").read_text()), {"scenario": name, "policy": "me_qmix"}
    rows = []
    for seed in summary["seeds"]:
        last = seed["final"]["greedy"]
        rows.append(
            {**of, "seed": seed["seed"], "env_steps": summary["env_steps"], **{k: last[k] for k in COLUMNS[4:]}}
        )
    keep(WIN_RATES, COLUMNS, rows, of)


def measure(name: str, num_envs: int = 64, length: int = 128, rounds: int = 5) -> dict[str, Any]:
    """Env steps per second of the scenario and of JaxMARL's SMAX of its size, by turns; the median of each."""
    spec, pool = envs.make(name).spec, pool_size(name, length)
    allies, enemies = spec.num_agents, spec.num_actions - 5
    raw = HeuristicEnemySMAX(scenario=Scenario(jnp.zeros(allies + enemies, jnp.uint8), allies, enemies, True, True))
    programs = [playing(game, length) for game in (ours(name, pool), jaxmarl_smax(raw, "step_env", pool))]
    seconds = []
    for number in range(rounds + 1):  # the first compiles
        keys = jax.random.split(jax.random.key(number), num_envs)
        seconds.append([clock(program, keys)[0] for program in programs])
    mine, theirs = (num_envs * length / np.median(seconds[1:], axis=0)).round()
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
    print(name, mine, theirs, flush=True)
    return dict(zip(SPEED_COLUMNS, (name, mine, theirs, num_envs, device), strict=True))


def draw(name: str) -> None:
    """A GIF of the first episode that the heuristic allies win with their race's new unit."""
    env = envs.make(name)
    assert env.render is not None
    play = jax.jit(partial(watch, env, heuristic_play(name), NOTHING, num_envs=1, policy="sampled"))
    episodes = (jax.device_get(play(jax.random.key(seed), jnp.int32(0))) for seed in itertools.count())
    outcomes, states = next(e for e in episodes if e[0]["win"][0] and (e[1].state.unit_types[0] == 2).any())
    length = int(outcomes["episode_length"][0])
    kept = [jax.tree.map(lambda x, t=t: x[t], states) for t in range(length + 1)]
    captions = [f"step {t}/{length}  {name}, heuristic allies (blue)" for t in range(length + 1)]
    (RESULTS / f"{name}.gif").write_bytes(gif.encode(env.render(kept), captions, GIF_BYTES))


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def keep(path: Path, columns: list[str], rows: list[dict[str, Any]], instead_of: dict[str, Any]) -> None:
    """Write `rows` in place of those that they renew, in the order of the scenarios."""
    others = [row for row in read(path) if not instead_of.items() <= row.items()]
    rounded = [{k: round(x, 5) if isinstance(x, float) else x for k, x in row.items()} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(sorted(others + rounded, key=lambda row: SCENARIOS.index(row["scenario"])))


def write_readme() -> None:
    """The table of all that was measured."""
    rates, speeds = read(WIN_RATES), {row["scenario"]: row for row in read(SPEEDS)}
    lines = [
        "# SMAC-v2's scenarios",
        "",
        "Made by `python experiments/scenarios.py`, from the CSV files here. Win rates against JaxMARL's heuristic",
        "enemy: `random` is uniform over the available actions, `heuristic` the enemy's own policy playing the allies",
        "(95 % Wilson intervals over episodes), ME-QMIX its greedy policy after the env steps named (mean and",
        "95 % Student-t interval; of a single seed over its episodes); gradient steps per 2048 env steps are 8, 4, 2",
        "for teams of 5, 10 and 20. Speed is env steps per second without learning, random actions, and beside it that",
        "of JaxMARL's SMAX with as many units (`step_env`; both take fresh states from a pool), by turns in one run.",
        "The CSVs name episodes, device and the number of environments.",
        "",
        "| scenario | random | heuristic | ME-QMIX | steps/s | JaxMARL |",
        "|---|---|---|---|---|---|",
    ]
    for name in SCENARIOS:
        mine = [row for row in rates if row["scenario"] == name]
        cells = [cell([row for row in mine if row["policy"] == p]) for p in ("random", "heuristic", "me_qmix")]
        speed = speeds.get(name, {})
        cells += [f"{float(speed[k]):.0f}" if speed else "-" for k in SPEED_COLUMNS[1:3]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    pictures = [path for race in envs.RACES if (path := RESULTS / f"smax_{race}_5v5.gif").exists()]
    lines += [f"\n![{path.stem}, an episode of the heuristic allies]({path.name})" for path in pictures]
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n")


def cell(rows: list[dict[str, str]]) -> str:
    """A mean and its interval: over seeds where there are several, else over episodes."""
    if not rows:
        return "-"
    rates = np.array([float(row["win_rate"]) for row in rows])
    if len(rates) > 1:
        half = stats.t.ppf(0.975, len(rates) - 1) * stats.sem(rates)
        low, high = max(rates.mean() - half, 0), min(rates.mean() + half, 1)
    else:
        episodes = int(rows[0]["episodes"])
        low, high = stats.binomtest(round(rates[0] * episodes), episodes).proportion_ci(method="wilson")
    steps = int(rows[0]["env_steps"])
    return f"{rates.mean():.3f} [{low:.3f}, {high:.3f}]" + (f" at {steps / 1e6:.2g}M" if steps else "")


if __name__ == "__main__":
    main()
