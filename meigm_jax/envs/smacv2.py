"""SMAC-v2's fifteen scenarios on JaxMARL's SMAX: race-pure random teams with all nine units, and its start positions.

Teams and positions are drawn as in oxwhirl/smacv2 (`distributions.py`). Units that it puts on one spot, and leaves to
StarCraft II to place, lie around it in a spiral. Units are in the order in which they were drawn, not sorted by type:
agents share their parameters. The units themselves are in `smacv2_units.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.envs.quiet import quiet
from meigm_jax.envs.smacv2_units import HeuristicEnemy, NineUnits
from meigm_jax.envs.smax import adapt
from meigm_jax.types import Array, Env

with quiet():
    from jaxmarl.environments.smax.distributions import Distribution

RACES = {  # the third unit of each race is not in SMAX
    "protoss": ("stalker", "zealot", "colossus"),
    "terran": ("marine", "marauder", "medivac"),
    "zerg": ("zergling", "hydralisk", "baneling"),
}
WEIGHTS = {"two": (0.5, 0.5), "three": (0.45, 0.45, 0.1)}
EXCEPTIONS = ("medivac", "baneling")  # may not form a whole team, nor all of the additional enemies

MEDIVACS = "; medivacs do not count"
MAP = (32, 32)  # width, height: SMAX's
SPACING = 0.75  # map units: of the spiral on which units that start on one spot lie


def make(
    name: str,
    sight_range: float | None = None,
    simulator: str = "fast",
    unit_types: str = "three",
    **options: Any,
) -> Env:
    """The scenario `name` ("smax_zerg_10v11") with "three" or "two" unit types; see the modules' docstrings.

    A unit's features are SMAX's with a one-hot type of the race's own units, in the order of `RACES`. Actions are
    SMAX's: attack j of a medivac heals ally j, which must be alive, in range and no medivac.
    """
    smax = game(name, unit_types, **options)
    units = smax._env
    env = adapt(name, smax, sight_range, simulator, units.fighting)
    return env._replace(spec=env.spec._replace(win=f"{env.spec.win}{MEDIVACS}")) if units.new == "medivac" else env


def game(name: str, unit_types: str = "three", **options: Any) -> HeuristicEnemy:
    """The scenario `name` with its enemy; `options` are those of SMAX."""
    return HeuristicEnemy(world(name, unit_types, **options))


def world(name: str, unit_types: str = "three", **options: Any) -> NineUnits:
    """JaxMARL's SMAX of the scenario `name`, with both teams as its agents; `options` are those of SMAX."""
    _, race, size = name.split("_")
    allies, enemies = map(int, size.split("v"))
    weights = WEIGHTS[unit_types]
    types = Teams(allies, enemies, RACES[race], weights)
    return NineUnits(RACES[race][: len(weights)], types, StartPositions(allies, enemies, *MAP), **options)


class Teams(Distribution):
    """Unit types of both teams. The enemies are a copy of the allies, and more of the same distribution."""

    def __init__(self, num_allies: int, num_enemies: int, names: tuple[str, ...], weights: tuple[float, ...]) -> None:
        super().__init__(num_allies, num_enemies, *MAP)
        self.weights = np.array(weights)
        self.exception = np.isin(names[: len(weights)], EXCEPTIONS)

    @functools.partial(jax.jit, static_argnums=(0,))
    def generate(self, key: Array) -> Array:
        """u8[units]: indices of types, allies first."""
        k_team, k_extra = jax.random.split(key)
        team = self._draw(k_team, self.n_allies)
        extra = self._draw(k_extra, self.n_enemies - self.n_allies)
        return jnp.concatenate([team, team, extra]).astype(jnp.uint8)

    def _draw(self, key: Array, size: int) -> Array:
        """i32[size]: independent draws by weight, given that not all of them are exceptions.

        Given that, the place of the first other unit has a geometric distribution that ends with the team.
        """
        k_all, k_place, k_other = jax.random.split(key, 3)
        types = jax.random.choice(k_all, len(self.weights), (size,), p=jnp.asarray(self.weights))
        if not self.exception.any() or not size:
            return types
        place = jnp.arange(size)
        share = self.weights @ self.exception
        first = jax.random.categorical(k_place, place * np.log(share))
        others = np.where(self.exception, 0.0, self.weights) / (1.0 - share)
        other = jax.random.choice(k_other, len(self.weights), p=jnp.asarray(others))
        types = jnp.where(place == first, other, types)
        return jnp.where(place < first, np.argmax(self.exception), types)


class StartPositions(Distribution):
    """Reflected or surrounded, with probability one half each."""

    @functools.partial(jax.jit, static_argnums=(0,))
    def generate(self, key: Array) -> Array:
        """f32[units, 2], allies first; a surrounding group may reach beyond the map."""
        k_which, k_reflect, k_surround = jax.random.split(key, 3)
        reflected = jax.random.bernoulli(k_which)
        return jnp.where(reflected, self.reflect(k_reflect), self.surround(k_surround))

    def reflect(self, key: Array) -> Array:
        """f32[units, 2]: allies anywhere in the left half, less 1; enemies their mirror image; more in the right."""
        k_ally, k_extra = jax.random.split(key)
        half, height = self.map_width / 2, self.map_height
        ally = jax.random.uniform(k_ally, (self.n_allies, 2)) * jnp.array([half - 1, height])
        enemy = ally * jnp.array([-1, 1]) + jnp.array([self.map_width, 0])
        extra = jax.random.uniform(k_extra, (self.n_enemies - self.n_allies, 2)) * jnp.array([half, height])
        return jnp.concatenate([ally, enemy, extra + jnp.array([half, 0])])

    def surround(self, key: Array) -> Array:
        """f32[units, 2]: allies at the centre, enemies in 1 to 4 groups, each on a diagonal of its own."""
        k_groups, k_group, k_diagonal, k_distance = jax.random.split(key, 4)
        groups = jax.random.randint(k_groups, (), 1, 5)
        group = jax.random.randint(k_group, (self.n_enemies,), 0, groups)
        corners = jnp.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
        diagonal = jax.random.permutation(k_diagonal, corners)
        centre = jnp.array([self.map_width / 2, self.map_height / 2])
        t = jax.random.uniform(k_distance, (4, 1))
        spot = centre + diagonal * (t * 2.0 + (1 - t) * centre)  # t = 1: 2 from the centre, both ways; 0: the corner
        before = jnp.tril(group[:, None] == group, k=-1).sum(1)  # of the same group
        return jnp.concatenate([centre + _spiral(jnp.arange(self.n_allies)), spot[group] + _spiral(before)])


def _spiral(index: Array) -> Array:
    """f32[..., 2]: sunflower seeds around the origin, evenly dense."""
    angle = index * jnp.pi * (3 - jnp.sqrt(5.0))
    return SPACING * jnp.sqrt(index)[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
