"""Is the fast SMAX step JaxMARL's? Every scenario, step by step from the same states, actions and keys.

    python experiments/smax_equality.py                          # all scenarios, about half an hour on 2 cores
    python experiments/smax_equality.py --scenarios smax_3m

JaxMARL's own step leads: each of its states is also stepped by the fast code, and all that comes out is compared.
Allies act at random, two times in three shooting (or healing) where they can. Results that are there already are not
made again. They go to experiments/results/smax_equality/.
"""

import argparse
import csv
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pages

from meigm_jax import envs
from meigm_jax.envs.smax_fast import STOP
from meigm_jax.types import Array, Env, TimeStep

RESULTS = Path(__file__).parent / "results" / "smax_equality"
NAMES = [f"smax_{name}" for name in envs.SMAX_MAPS]
NAMES += [f"smax_{race}_{size}" for race in envs.RACES for size in envs.TEAM_SIZES]
ENVS, STEPS = 32, 128  # 4096 steps; an episode has at most 101
TOLERANCE = 1e-5
COLUMNS = ("scenario", "steps", "episodes", "wins", "largest_difference", "beyond_tolerance", "unequal_flags")

INTRO = f"""# The fast SMAX step beside JaxMARL's

From every state that JaxMARL's own step reaches, the fast one makes a step with the same actions and the same key.
Compared are the next state, reward, observations, world state and available actions: numbers (largest absolute
difference; how many differ by more than {TOLERANCE:g}), and flags, counts and types (how many are not equal).
Made by `python experiments/smax_equality.py`.

| scenario | steps | episodes ended | won | largest difference | beyond {TOLERANCE:g} | unequal flags |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="*", default=NAMES, choices=NAMES, metavar="NAME")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "equality.csv"
    for name in options.scenarios:
        if name not in [row["scenario"] for row in read(path)]:
            add(path, compare(name, ENVS, STEPS))
            print(name, flush=True)
    write_readme(read(path))


def compare(name: str, num_envs: int, steps: int, **options: Any) -> dict[str, Any]:
    """The row of the scenario `name`."""
    sides = [envs.make(name, simulator=simulator, **options) for simulator in ("jaxmarl", "fast")]
    leading, following = jax.tree.map(np.asarray, jax.jit(run, static_argnums=(0, 1, 2, 3))(*sides, num_envs, steps))
    differences, unequal = [], 0
    for expected, found in zip(jax.tree.leaves(leading), jax.tree.leaves(following), strict=True):
        assert expected.shape == found.shape and expected.dtype == found.dtype
        if np.issubdtype(expected.dtype, np.floating):
            differences.append(np.abs(expected - found).ravel())
        else:
            unequal += int(np.sum(expected != found))
    difference = np.concatenate(differences)
    values = (
        name,
        num_envs * steps,
        int(np.sum(leading.terminated | leading.truncated)),
        int(np.sum(leading.win)),
        f"{difference.max():.1e}",
        int(np.sum(~(difference <= TOLERANCE))),
        unequal,
    )
    return dict(zip(COLUMNS, values, strict=True))


class Result(NamedTuple):
    """What an environment's step gives."""

    env_state: Any
    time_step: TimeStep
    reward: Array
    terminated: Array
    truncated: Array
    win: Array


def run(leader: Env, follower: Env, num_envs: int, steps: int) -> tuple[Result, Result]:
    """What both make of each of the leader's states, leaves [steps, num_envs]; an ended game starts where it began."""

    def both(first: Any, carry: Any, key: Array) -> tuple[Any, tuple[Result, Result]]:
        env_state, avail = carry
        k_act, k_step = jax.random.split(key)
        action = choose(k_act, avail)
        leading, following = (side(env, k_step, env_state, action) for env in (leader, follower))
        ended = leading.terminated | leading.truncated
        after = (leading.env_state, leading.time_step.avail)
        return jax.tree.map(lambda new, old: jnp.where(ended, new, old), first, after), (leading, following)

    k_start, k_steps = jax.random.split(jax.random.key(0))
    env_state, time_step = jax.vmap(leader.reset)(jax.random.split(k_start, num_envs))
    first = (env_state, time_step.avail)
    keys = jax.random.split(k_steps, (steps, num_envs))
    return jax.lax.scan(lambda carry, keys: jax.vmap(both)(first, carry, keys), first, keys)[1]


def side(env: Env, key: Array, env_state: Any, action: Array) -> Result:
    """One side's step; JaxMARL's own leaves some numbers weakly typed."""
    *result, info = env.step(key, env_state, action)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), Result(*result, info["win"]))


def choose(key: Array, avail: Array) -> Array:
    """i32[N]: among the available actions; where there is anything to shoot at, that with probability 2/3."""
    k_attack, k_action = jax.random.split(key)
    attack = avail & (jnp.arange(avail.shape[-1]) > STOP)
    prefers = attack.any(-1, keepdims=True) & (jax.random.uniform(k_attack, (len(avail), 1)) < 2 / 3)
    return jax.random.categorical(k_action, jnp.where(jnp.where(prefers, attack, avail), 0.0, -jnp.inf))


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def add(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def write_readme(rows: list[dict[str, str]]) -> None:
    lines = ["| " + " | ".join(row[column] for column in COLUMNS) + " |" for row in rows]
    pages.write(RESULTS, INTRO + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
