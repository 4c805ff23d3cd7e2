"""The SMAC-v2 scenarios: win rates of random play and of JaxMARL's heuristic as allies, and their speed.

    python experiments/scenarios.py                             # random and heuristic play of all fifteen
    python experiments/scenarios.py --speed                     # env steps per second beside JaxMARL's
    python experiments/scenarios.py --gif                       # an episode per race

A unit is one scenario and one policy. Each is written when it is done and not run again, unless it is to have other
episodes. The table is made from the CSV files in experiments/results/scenarios. What is learnt there: table_2.py.
"""

import argparse
import csv
import itertools
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pages
from benchmark_measure import clock, jaxmarl_smax, ours, playing, pool_size
from scipy import stats

from meigm_jax import envs
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

RESULTS = Path(__file__).parent / "results" / "scenarios"
WIN_RATES, SPEEDS = RESULTS / "win_rates.csv", RESULTS / "speed.csv"
SCENARIOS = [f"smax_{race}_{size}" for race in envs.RACES for size in envs.TEAM_SIZES]
COLUMNS = ["scenario", "policy", "episodes", "win_rate", "return", "episode_length"]
SPEED_COLUMNS = ["scenario", "steps_per_second", "jaxmarl_steps_per_second", "num_envs", "device"]
GIF_BYTES = 300_000
NOTHING: Any = None  # what a policy that does not learn has learnt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, help="default: all fifteen")
    parser.add_argument("--episodes", type=int, default=512, help="of each kind of play")
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
    keep(WIN_RATES, COLUMNS, [of | {"episodes": episodes} | found], of)
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
        "(95 % Wilson intervals over episodes). What is learnt there: [table 2](../table_2/README.md). Speed is env",
        "steps per second without learning, random actions, and beside it that of JaxMARL's SMAX with as many units",
        "(`step_env`; both take fresh states from a pool), by turns in one run.",
        "The CSVs name episodes, device and the number of environments.",
        "",
        "| scenario | random | heuristic | steps/s | JaxMARL |",
        "|---|---|---|---|---|",
    ]
    for name in SCENARIOS:
        mine = [row for row in rates if row["scenario"] == name]
        cells = [cell([row for row in mine if row["policy"] == p]) for p in ("random", "heuristic")]
        speed = speeds.get(name, {})
        cells += [f"{float(speed[k]):.0f}" if speed else "-" for k in SPEED_COLUMNS[1:3]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    pictures = [path for race in envs.RACES if (path := RESULTS / f"smax_{race}_5v5.gif").exists()]
    lines += [f"\n![{path.stem}, an episode of the heuristic allies]({path.name})" for path in pictures]
    pages.write(RESULTS, "\n".join(lines) + "\n")


def cell(rows: list[dict[str, str]]) -> str:
    """A win rate and its interval over episodes."""
    if not rows:
        return "-"
    rate, episodes = float(rows[0]["win_rate"]), int(rows[0]["episodes"])
    low, high = stats.binomtest(round(rate * episodes), episodes).proportion_ci(method="wilson")
    return f"{rate:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
