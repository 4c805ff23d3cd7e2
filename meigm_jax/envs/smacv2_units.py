"""SMAX's units and the third one of each race: colossus, medivac, baneling. No copy of SMAX's physics.

What the sources leave open, or SMAX does otherwise than StarCraft II, is decided as follows.

- Distances are between centres, as everywhere in SMAX, but a splash reaches a unit whose edge it touches. Splash spares
  the own team. The new units have the game's bonus against light units; armour is left out, as in SMAX.
- A baneling dies by its attack. One that is shot does not explode.
- Everybody can shoot medivacs, and they fly: they collide with nobody. Their energy stands in the place of a cooldown.
  Any number of them heals a unit no faster than one does.
- A team of medivacs alone is defeated. The reward is for what the enemies' health falls by, step by step, and nothing
  where it grows; so damage that was healed and dealt again pays again, within what energy allows.
- Before an episode, units that overlap or stand at the wall are moved apart, as in StarCraft II.
- The enemy is JaxMARL's heuristic one. Its medivacs heal the weakest unit in range, else fly to who needs it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from meigm_jax.envs.quiet import quiet
from meigm_jax.types import Array

with quiet():
    from jaxmarl.environments.smax import SMAX, HeuristicEnemySMAX, Scenario
    from jaxmarl.environments.smax.distributions import Distribution
    from jaxmarl.environments.smax.heuristic_enemy import create_heuristic_policy

# What SMAX calls unit_type_*. BurnySc2/sc2-techtree (data.json, from the game's own data): health with shields,
# radius, sight, energy; its speeds and cooldowns are per second of game time, of which SMAX's seconds have 1.4.
# Liquipedia (Legacy of the Void): the same speeds, 12.6 health per second of a medivac's heal, the baneling.
# oxwhirl/smacv2: ranges; a baneling's is the 2 from which it may attack there, SMAX's own range of melee units.
# `attacks` is 0: `NineUnits._splash` deals the damage. A medivac's "cooldown" is the most energy that it can have.
NEW_UNITS: dict[str, dict[str, Any]] = {
    "colossus": {
        "names": "colossus",
        "shorthands": "C",
        "velocities": 3.15,
        "attacks": 0.0,
        "attack_ranges": 7.0,
        "sight_ranges": 10.0,
        "radiuses": 1.0,
        "health": 350.0,
        "weapon_cooldowns": 1.07,
    },
    "medivac": {
        "names": "medivac",
        "shorthands": "v",
        "velocities": 3.5,
        "attacks": 0.0,
        "attack_ranges": 4.0,
        "sight_ranges": 11.0,
        "radiuses": 0.75,
        "health": 150.0,
        "weapon_cooldowns": 200.0,
    },
    "baneling": {
        "names": "baneling",
        "shorthands": "b",
        "velocities": 3.5,
        "attacks": 0.0,
        "attack_ranges": 2.0,
        "sight_ranges": 8.0,
        "radiuses": 0.375,
        "health": 30.0,
        "weapon_cooldowns": 1.0,
    },
}
LIGHT = ("zealot", "zergling", "hydralisk")  # as in sc2-techtree
DAMAGE = {"colossus": (20.0, 30.0), "baneling": (16.0, 35.0)}  # Liquipedia; to a light unit; of both lances together
LANCE_REACH = 1.4  # to either side, across the line of fire: an estimate without a source
LANCE_RADIUS = 0.15  # along the line of fire; tl.net, "What are the splash formulas in SC2?", as the next
BURST_RADIUS = 2.2
HEAL_RATE = 12.6  # health per second
HEALTH_PER_ENERGY = 3.0  # Liquipedia, "Heal"
START_ENERGY = 50.0
ENERGY_RATE = 0.7875  # per second: the number of the game, without a source

STOP = 4
FOLLOW = 2.0  # map units: a heuristic medivac keeps within; in a step it covers 1.75, and there are walls
EDGE = 0.5  # map units: units start at least so far from the walls, which kill
SETTLING = 16  # times that overlapping units are pushed apart before an episode


def damage(new: str | None, kind: str) -> float:
    """What one attack of the unit `new` takes from a unit of `kind` in its splash."""
    return DAMAGE[new][kind in LIGHT] if new in DAMAGE else 0.0


class NineUnits(SMAX):
    """SMAX with units `names`, of which the last may be a new one; types and start positions are drawn as given."""

    def __init__(self, names: tuple[str, ...], types: Distribution, positions: Distribution, **options: Any) -> None:
        super().__init__(scenario=_scenario(types.n_allies, types.n_enemies), **_table(names), **options)
        self.unit_type_generator, self.position_generator = types, positions
        self.new = names[-1] if names[-1] in NEW_UNITS else None
        self.heals = jnp.array([name == "medivac" for name in names])  # by type, as the next
        self.damage = jnp.array([damage(names[-1], name) for name in names], jnp.float32)
        self.is_ally = jnp.arange(self.num_agents) < self.num_allies
        self.sign = jnp.where(self.is_ally, 1, -1)  # the enemies count their targets and their own backwards

    def fighting(self, state: Any) -> Array:
        """bool[units]: alive, and not a medivac, whose team is defeated when there is nothing else."""
        return state.unit_alive & ~self.heals[state.unit_types]

    @functools.partial(jax.jit, static_argnums=(0,))
    def reset(self, key: Array) -> tuple[Any, Any]:
        """SMAX's, with units moved apart and away from the walls, and medivacs' energy."""
        _, state = super().reset(key)
        state = jax.lax.fori_loop(0, SETTLING, lambda _, state: self._inside(self._push_units_away(state)), state)
        energy = jnp.where(self.heals[state.unit_types], START_ENERGY, 0.0)
        state = state.replace(unit_weapon_cooldowns=energy)
        return self.get_obs(state) | {"world_state": self.get_world_state(state)}, state

    def _inside(self, state: Any) -> Any:
        """Units within `EDGE` of a wall, or beyond, go where a mirror there shows them: no two to the same place."""
        low, high = EDGE, jnp.array([self.map_width, self.map_height]) - EDGE
        positions = low + jnp.abs(state.unit_positions - low)
        return state.replace(unit_positions=high - jnp.abs(high - positions))

    def _push_units_away(self, state: Any, firmness: float = 1.0) -> Any:
        walking = state.replace(unit_alive=self.fighting(state))  # SMAX pushes who is alive; medivacs fly
        return super()._push_units_away(walking, firmness).replace(unit_alive=state.unit_alive)

    @functools.partial(jax.jit, static_argnums=(0,))
    def _world_step(self, key: Array, state: Any, actions: tuple[Array, Array]) -> Any:
        movement, attack = actions
        shots = jnp.where(self.heals[state.unit_types], 0, attack)
        after = super()._world_step(key, state, (movement, shots))
        if self.new == "medivac":
            return self._heal(state, after, attack)
        return after if self.new is None else self._splash(state, after, attack)

    def _splash(self, before: Any, after: Any, attack: Array) -> Any:
        """What the weapons with a splash do within a tick; they hit where units stood before it, as SMAX's do."""
        types = before.unit_types
        # Of all the cooldowns only those of weapons that have fired grow.
        fired = after.unit_weapon_cooldowns > before.unit_weapon_cooldowns
        fired &= types == len(self.unit_type_names) - 1
        exposed = before.unit_alive & (self.is_ally[:, None] != self.is_ally)
        reach = self._burst_reaches(before) if self.new == "baneling" else self._lances_reach(before, attack)
        hit = fired[:, None] & exposed & reach
        health = jnp.maximum(after.unit_health - hit.sum(0) * self.damage[types], 0.0)
        return after.replace(unit_health=jnp.where(fired & (self.new == "baneling"), 0.0, health))

    def _burst_reaches(self, state: Any) -> Array:
        """bool[units, units]: how far a baneling's explosion, of the first unit, reaches the second."""
        offset = state.unit_positions[:, None] - state.unit_positions
        return jnp.sum(offset**2, -1) < (BURST_RADIUS + self.unit_type_radiuses[state.unit_types]) ** 2

    def _lances_reach(self, state: Any, attack: Array) -> Array:
        """bool[units, units]: whether the second unit is in the line that the first one's lances sweep.

        It goes through the target, at right angles to the line of fire.
        """
        position, radius = state.unit_positions, self.unit_type_radiuses[state.unit_types]
        target = position[self._chosen(attack, (self.num_allies, self.num_allies - 1))]
        fire = target - position
        length = jnp.linalg.norm(fire, axis=-1)[:, None]
        offset = position - target[:, None]
        along = jnp.abs(offset @ fire[:, :, None])[..., 0]
        across = jnp.abs(offset[..., 0] * fire[:, None, 1] - offset[..., 1] * fire[:, None, 0])
        return (along < (LANCE_RADIUS + radius) * length) & (across < (LANCE_REACH + radius) * length)

    def _chosen(self, attack: Array, first: tuple[int, int]) -> Array:
        """i32[units]: the unit that each one's attack action names, itself where it has none.

        `first` is the unit of the first attack action, of an ally and of an enemy.
        """
        return jnp.where(
            attack > STOP,
            jnp.where(self.is_ally, *first) + self.sign * (attack - STOP - 1),
            jnp.arange(self.num_agents),
        )

    def _heal(self, before: Any, after: Any, attack: Array) -> Any:
        """What medivacs do within a tick, after the damage: whom that has killed nothing brings back."""
        types, position = before.unit_types, before.unit_positions
        patient = self._chosen(attack, (0, self.num_agents - 1))
        near = jnp.linalg.norm(position - position[patient], axis=-1) < self.unit_type_attack_ranges[types]
        health = after.unit_health
        can_be = self.fighting(before) & (health > 0)
        heals = self.heals[types] & before.unit_alive & near & can_be[patient]
        missing = self.unit_type_health[types] - health
        energy = before.unit_weapon_cooldowns
        most = jnp.minimum(HEAL_RATE * self.time_per_step, energy * HEALTH_PER_ENERGY)
        healed = jnp.where(heals, jnp.minimum(most, missing[patient]), 0.0)
        energy = energy + ENERGY_RATE * self.time_per_step - healed / HEALTH_PER_ENERGY
        energy = jnp.clip(energy, 0.0, self.unit_type_weapon_cooldowns[types])
        return after.replace(
            unit_health=health + jnp.zeros_like(health).at[patient].max(healed),
            unit_weapon_cooldowns=jnp.where(self.heals[types], energy, after.unit_weapon_cooldowns),
        )

    @functools.partial(jax.jit, static_argnums=(0,))
    def compute_reward(self, state: Any, health_before: Array, health_after: Array) -> Any:
        """SMAX's, which pays the absolute change of a team's health: here, nothing where it grows."""
        change = (health_after - health_before) / self.unit_type_health[state.unit_types]
        grows = jnp.where(self.is_ally, change[: self.num_allies].sum() > 0, change[self.num_allies :].sum() > 0)
        health_after = jnp.where(grows, health_before, health_after)
        return super().compute_reward(state.replace(unit_alive=self.fighting(state)), health_before, health_after)

    @functools.partial(jax.jit, static_argnums=(0,))
    def is_terminal(self, state: Any) -> Array:
        """SMAX's, of the units that can fight."""
        return super().is_terminal(state.replace(unit_alive=self.fighting(state)))

    @functools.partial(jax.jit, static_argnums=(0,))
    def get_avail_actions(self, state: Any) -> dict[str, Array]:
        """SMAX's; those of allied medivacs are the allies that they can heal. Of the enemies nobody asks."""
        avail = super().get_avail_actions(state)
        if self.new != "medivac":
            return avail
        position = state.unit_positions[: self.num_allies]
        near = jnp.linalg.norm(position[:, None] - position, axis=-1) < NEW_UNITS["medivac"]["attack_ranges"]
        patients = near & self.fighting(state)[: self.num_allies] & state.unit_alive[: self.num_allies, None]
        patients = jnp.pad(patients, ((0, 0), (0, self.num_enemies - self.num_allies)))
        heals = self.heals[state.unit_types]
        return avail | {
            agent: jnp.where(heals[i], jnp.concatenate([avail[agent][:5], patients[i]]), avail[agent])
            for i, agent in enumerate(self.agents[: self.num_allies])
        }

    def init_render(self, ax: Any, state: Any, step: int, env_step: int) -> Any:
        """SMAX's picture; a heal is no shot."""
        key, units, actions = state
        heals = self.heals[units.unit_types]
        actions = {agent: action * ~heals[i] for i, (agent, action) in enumerate(actions.items())}
        return super().init_render(ax, (key, units, actions), step, env_step)


def _scenario(num_allies: int, num_enemies: int) -> Scenario:
    return Scenario(jnp.zeros(num_allies + num_enemies, jnp.uint8), num_allies, num_enemies, True, True)


def _table(names: tuple[str, ...]) -> dict[str, Any]:
    """SMAX's columns unit_type_*, a row for each of `names`."""
    known, table = SMAX(), {}
    for column in next(iter(NEW_UNITS.values())):
        values = dict(zip(known.unit_type_names, getattr(known, f"unit_type_{column}"), strict=True))
        values |= {name: unit[column] for name, unit in NEW_UNITS.items()}
        chosen = [values[name] for name in names]
        table[f"unit_type_{column}"] = chosen if isinstance(chosen[-1], str) else jnp.array(chosen)
    return table


class HeuristicEnemy(HeuristicEnemySMAX):
    """JaxMARL's heuristic enemy in `world`, with medivacs that heal."""

    def __init__(self, world: NineUnits) -> None:
        super().__init__(scenario=_scenario(world.num_allies, world.num_enemies))
        self._env = world
        self.observation_spaces = {agent: world.observation_spaces[agent] for agent in self.agents}
        self.heuristic_policy = create_heuristic_policy(world, 1)

    def get_enemy_actions(self, key: Array, policy_state: Any, enemy_obs: Array) -> tuple[dict[str, Array], Any]:
        """JaxMARL's, but for medivacs."""
        actions, policy_state = super().get_enemy_actions(key, policy_state, enemy_obs)
        chosen = jnp.stack([actions[agent] for agent in self.enemy_agents])
        # The enemies see their team from its last unit to its first.
        place = jnp.arange(self.num_enemies)[::-1]
        chosen = with_medivacs(self._env, place, enemy_obs, chosen)
        return dict(zip(self.enemy_agents, chosen, strict=True)), policy_state


def with_medivacs(world: NineUnits, place: Array, obs: Array, actions: Array) -> Array:
    """i32[N]: what a heuristic team does: its medivacs heal, everybody else keeps to `actions`, i32[N].

    `place`, i32[N], is where each unit stands in its team as the team sees it; `obs`, f32[N, O], are SMAX's.
    """
    if world.new != "medivac":
        return actions
    return jax.vmap(functools.partial(_care, world, len(place) - 1))(place, obs, actions)


def _care(world: NineUnits, mates: int, place: Array, obs: Array, action: Array) -> Array:
    """One unit's action. A medivac heals the weakest unit in range, else goes to the nearest hurt one, else to any."""
    medivac = world.unit_type_names.index("medivac")
    others = obs[: mates * len(world.unit_features)].reshape(mates, -1)
    health, offset = others[:, 0], others[:, 1:3] * world.unit_type_sight_ranges[medivac]
    patient = (health > 0) & (others[:, 7 + medivac] == 0)
    hurt = patient & (health < 1)
    distance = jnp.linalg.norm(offset, axis=-1)
    near = hurt & (distance < world.unit_type_attack_ranges[medivac])
    weakest = jnp.argmin(jnp.where(near, health, jnp.inf))
    goal = jnp.argmin(jnp.where(jnp.where(hurt.any(), hurt, patient), distance, jnp.inf))
    go = jnp.argmax(jnp.array([[0, 1], [1, 0], [0, -1], [-1, 0]]) @ offset[goal])
    go = jnp.where(distance[goal] < FOLLOW, STOP, go)
    alone = jnp.where(action < STOP, action, STOP)
    care = jnp.where(near.any(), STOP + 1 + weakest + (weakest >= place), jnp.where(patient.any(), go, alone))
    return jnp.where(obs[len(obs) - world.unit_type_bits + medivac] == 1, care, action)
