"""SMAX's step with its heuristic enemy as plain arithmetic on arrays [units, B], the environments in the last axis.

JaxMARL writes the step for one unit; vmapped, its conditionals take both branches, its indexing becomes gathers and
scatters, and the inner loops run over a handful of units. Here every operation runs along the environments. From the
same state, actions and key the results are JaxMARL's and those of `smacv2_units`, where the rules are explained.
Sums over units are written out, since XLA does not vectorise reductions on the CPU.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from meigm_jax.envs import smacv2_units as new_units
from meigm_jax.ops import threefry
from meigm_jax.types import Array

STOP = new_units.STOP
FIRST_ATTACK = STOP + 1


class Draws(NamedTuple):
    """What is random in a step, uniform in [0, 1)."""

    cooldown: Array  # f32[ticks, U]: how long a weapon rests after a shot
    target: Array  # f32[M]: which of the allies that it sees an enemy walks to


class Traits(NamedTuple):
    """What the units' types say, [U, B] each; B is 1 where the types are the map's."""

    velocity: Array
    attack: Array
    attack_range: Array
    sight_range: Array
    radius: Array
    health: Array
    weapon_cooldown: Array
    heals: Array  # bool: a medivac
    bursts: Array  # bool: a unit with a splash
    splash_damage: Array  # taken from one such attack


COLUMNS = (  # of Traits, as SMAX calls them
    ("velocity", "velocities"),
    ("attack", "attacks"),
    ("attack_range", "attack_ranges"),
    ("sight_range", "sight_ranges"),
    ("radius", "radiuses"),
    ("health", "health"),
    ("weapon_cooldown", "weapon_cooldowns"),
)


class Units(NamedTuple):
    """What changes within a step, [U, B] each."""

    x: Array
    y: Array
    health: Array
    cooldown: Array  # a medivac's energy
    alive: Array  # bool


class Orders(NamedTuple):
    """What the units were told to do in this step, [U, B] each."""

    dx: Array  # map units per tick
    dy: Array
    attack: Array  # i32: the attack action, 0 where there is none
    aim: Array  # i32: the unit that is shot at, its own number where none is
    patient: Array  # i32: the unit that a medivac heals, its own number where none is


def draw(smax: Any, key: Array) -> Draws:
    """What JaxMARL's step draws from `key`."""
    words = threefry.words(key)
    enemies = threefry.split(threefry.split(words, 1), jnp.arange(smax.num_enemies))

    def tick(words: threefry.Words, _: None) -> tuple[threefry.Words, threefry.Words]:
        return threefry.split(words, 0), threefry.split(words, 1)

    # A loop: unrolled, XLA makes the keys before a tick again for each of the ticks.
    _, ticks = jax.lax.scan(tick, threefry.split(words, 0), length=smax.world_steps_per_env_step)
    of_ticks = threefry.Words(ticks.first[:, None], ticks.second[:, None])
    units = threefry.split(of_ticks, jnp.arange(smax.num_allies + smax.num_enemies))
    return Draws(threefry.uniform(units), threefry.uniform(threefry.split(enemies, 0)))


def make_advance(smax: Any) -> Callable[[Draws, Any, Array], tuple[Any, Array]]:
    """The step of SMAX with its enemy, but for what it shows: Draws, env state, i32[N] -> (env state, reward f32[]).

    For one environment; any number of vmaps goes into one batch axis.
    """
    return batch_minor(functools.partial(_advance, smax))


def batch_minor(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` takes and gives trees of arrays [..., B]; the result is for one, and vmap extends B."""

    @custom_vmap
    def minor(*args: Any) -> Any:
        return function(*args)

    @minor.def_vmap
    def _(size: int, batched: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        def merge(x: Array, is_batched: bool) -> Array:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)

        out = minor(*jax.tree.map(merge, args, tuple(batched)))
        out = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0), out)
        return out, jax.tree.map(lambda _: True, out)

    def one(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[..., 0], minor(*jax.tree.map(lambda x: jnp.asarray(x)[..., None], args)))

    return one


def _advance(smax: Any, draws: Draws, env_state: Any, action: Array) -> tuple[Any, Array]:
    state, policy = env_state.state, env_state.enemy_policy_state
    traits = _traits(smax, state.unit_types)
    units = Units(
        state.unit_positions[:, 0],
        state.unit_positions[:, 1],
        state.unit_health,
        state.unit_weapon_cooldowns,
        state.unit_alive,
    )
    enemy_action, policy = _enemy(smax, traits, units, policy, draws.target)
    action = jnp.concatenate([action, enemy_action])
    orders, movement = _orders(smax, traits, action)
    deviation = smax.time_per_step * (3 * draws.cooldown - 1)
    tick = functools.partial(_tick, smax, traits, orders)
    # On a GPU in one piece: starting a kernel takes longer than a tick.
    at_once = len(deviation) if jax.default_backend() == "gpu" else 1
    units = jax.lax.scan(lambda units, deviation: (tick(units, deviation), None), units, deviation, unroll=at_once)[0]
    fights = units.alive & ~traits.heals
    lost, won = ~_any(fights[: smax.num_allies]), ~_any(fights[smax.num_allies :])
    change = ((units.health - state.unit_health) / traits.health)[smax.num_allies :].sum(axis=0)
    if _new(smax) is not None:
        change = jnp.minimum(change, 0.0)  # healing does not pay
    reward = jnp.abs(change) / smax.num_enemies + jnp.where(won & ~lost, smax.won_battle_bonus, 0.0)
    state = state.replace(
        unit_positions=jnp.stack([units.x, units.y], axis=1),
        unit_health=units.health,
        unit_weapon_cooldowns=units.cooldown,
        unit_alive=units.alive,
        prev_movement_actions=movement,
        prev_attack_actions=orders.attack,
        step=state.step + 1,
        done=lost | won | (state.step >= smax.max_steps),
    )
    return env_state.replace(state=state, enemy_policy_state=policy), reward


def _traits(smax: Any, types: Array) -> Traits:
    """The types' columns, by unit. On JaxMARL's own maps with fixed types they are constants."""
    fixed = smax.scenario is not None and not smax.smacv2_unit_type_generation
    of = functools.partial(_of_map, np.asarray(smax.scenario)) if fixed else functools.partial(of_type, types)
    columns = {name: of(np.asarray(getattr(smax, f"unit_type_{of_types}"), np.float32)) for name, of_types in COLUMNS}
    kinds, new = np.array(smax.unit_type_names), _new(smax)
    return Traits(
        **columns,
        heals=of(kinds == "medivac"),
        bursts=of((kinds == new) & (kinds != "medivac")),
        splash_damage=of(np.array([new_units.damage(new, kind) for kind in kinds], np.float32)),
    )


def _of_map(types: np.ndarray, values: np.ndarray) -> Array:
    """values[types] as a constant, [U, 1]."""
    return jnp.asarray(values[types][:, None])


def of_type(types: Array, values: np.ndarray) -> Array:
    """values[types] without a gather; types may be of any number type."""
    chosen = jnp.full(types.shape, values[0])
    for kind in range(1, len(values)):
        chosen = jnp.where(types == kind, values[kind], chosen)
    return chosen


def _new(smax: Any) -> str | None:
    """The unit that SMAX does not have, if there is one."""
    return getattr(smax, "new", None)


def _orders(smax: Any, traits: Traits, action: Array) -> tuple[Orders, Array]:
    """Actions i32[U, B] -> the orders and JaxMARL's movement vectors f32[U, 2, B]."""
    attack = jnp.where(action > STOP, action, 0)
    x, y = (of_type(jnp.minimum(action, STOP), column) for column in moves(smax).T)
    number = jnp.arange(len(action))[:, None]
    is_ally = number < smax.num_allies
    turn = jnp.where(is_ally, 1, -1)  # the enemies count their targets, and their own, backwards
    attacked = jnp.where(is_ally, smax.num_allies, smax.num_allies - 1) + turn * (action - FIRST_ATTACK)
    healed = jnp.where(is_ally, 0, len(action) - 1) + turn * (action - FIRST_ATTACK)
    acts = action > STOP
    orders = Orders(
        dx=x * traits.velocity * smax.time_per_step,
        dy=y * traits.velocity * smax.time_per_step,
        attack=attack,
        aim=jnp.where(acts & ~traits.heals, attacked, number),
        patient=jnp.where(acts & traits.heals, healed, number),
    )
    return orders, jnp.stack([x, y], axis=1)


@functools.cache
def moves(smax: Any) -> np.ndarray:
    """f32[5, 2]: JaxMARL's movement vectors of up, right, down, left, stop."""
    # One small program, and once: its operations one by one, as when a shard_map is traced, take half a second.
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.jit(smax._decode_discrete_actions)(np.arange(STOP + 1))[0])


def _tick(smax: Any, traits: Traits, orders: Orders, units: Units, deviation: Array) -> Units:
    """A sixteenth of a second: everybody moves and shoots at where others stood, then walls kill and units collide."""
    x = jnp.where(units.alive, jnp.clip(units.x + orders.dx, 0.0, smax.map_width), units.x)
    y = jnp.where(units.alive, jnp.clip(units.y + orders.dy, 0.0, smax.map_height), units.y)
    fires = _in_range(units, traits, orders.aim, units.alive) & (units.cooldown <= 0.0)
    damage = _collect(orders.aim, jnp.where(fires, traits.attack, 0.0), operator.add)
    health = jax.lax.optimization_barrier(jnp.maximum(units.health - damage, 0.0))  # else made again at every use
    rested = units.cooldown - smax.time_per_step
    cooldown = jnp.where(fires, traits.weapon_cooldown + deviation, rested)
    if _new(smax) == "medivac":
        health, cooldown = _heal(smax, traits, orders, units, health, cooldown)
    elif _new(smax) is not None:
        health = _splash(smax, traits, orders, units, fires & traits.bursts, health)
    if smax.walls_cause_death:
        outside = (x <= 0.0) | (x >= smax.map_width) | (y <= 0.0) | (y >= smax.map_height)
        health = jnp.where(outside, 0.0, health)
    alive = health > 0.0
    x, y = _push(traits, x, y, alive & ~traits.heals)
    return Units(x, y, health, cooldown, alive)


def _in_range(units: Units, traits: Traits, other: Array, counts: Array) -> Array:
    """bool[U, B]: the unit `other` is not oneself, `counts`, and is within the range of one's weapon; one is alive."""
    x, y, counts = (_pick(values, other) for values in (units.x, units.y, counts))
    near = _length(units.x - x, units.y - y) < traits.attack_range
    return near & units.alive & counts & (other != jnp.arange(len(other))[:, None])


def _pick(values: Array, index: Array) -> Array:
    """values[index] along the units, without a gather: [U, B], i32[U, B] -> [U, B]."""
    picked = values
    for number in range(len(values)):
        picked = jnp.where(index == number, values[number], picked)
    return picked


def _collect(index: Array, values: Array, combine: Callable[[Array, Array], Array]) -> Array:
    """What arrives at each unit when each sends its non-negative value to the unit `index`, without a scatter."""
    number = jnp.arange(len(index))[:, None]
    return functools.reduce(combine, (jnp.where(index[i] == number, values[i], 0.0) for i in range(len(index))))


def _push(traits: Traits, x: Array, y: Array, walks: Array) -> tuple[Array, Array]:
    """Those who walk and overlap move apart, each by half of the overlap."""
    distance = _length(x - x[:, None], y - y[:, None]) + 1e-6
    overlap = jnp.maximum((traits.radius + traits.radius[:, None]) / distance - 1.0, 0.0)
    overlap = jnp.where(walks & walks[:, None], overlap, 0.0)
    overlap = jax.lax.optimization_barrier(overlap)  # else XLA computes it again for each of the sums
    return tuple(
        v + functools.reduce(operator.add, ((v - v[i]) * overlap[i] for i in range(len(v)))) / 2 for v in (x, y)
    )


def _splash(smax: Any, traits: Traits, orders: Orders, units: Units, fired: Array, health: Array) -> Array:
    """Health after what the colossi or banelings that `fired` do to the other team; a baneling dies of it."""
    number = jnp.arange(len(health))[:, None]
    bursts = _new(smax) == "baneling"
    target_x, target_y = _pick(units.x, orders.aim), _pick(units.y, orders.aim)
    hits = jnp.zeros_like(health)
    for i in range(len(health)):
        exposed = units.alive & ((number < smax.num_allies) != (i < smax.num_allies))
        if bursts:
            reach = _burst_reaches(traits, units, i)
        else:
            reach = _lances_reach(traits, units, i, target_x[i], target_y[i])
        hits += (fired[i] & exposed & reach).astype(hits.dtype)
    health = jnp.maximum(health - hits * traits.splash_damage, 0.0)
    return jnp.where(fired & bursts, 0.0, health)


def _burst_reaches(traits: Traits, units: Units, i: int) -> Array:
    """bool[U, B]: whom an explosion of unit i reaches."""
    squared = (units.x[i] - units.x) ** 2 + (units.y[i] - units.y) ** 2
    return squared < (new_units.BURST_RADIUS + traits.radius) ** 2


def _lances_reach(traits: Traits, units: Units, i: int, target_x: Array, target_y: Array) -> Array:
    """bool[U, B]: who is in the line that unit i's lances sweep through the target, at right angles to the fire."""
    fire_x, fire_y = target_x - units.x[i], target_y - units.y[i]
    length = _length(fire_x, fire_y)
    x, y = units.x - target_x, units.y - target_y
    along, across = jnp.abs(x * fire_x + y * fire_y), jnp.abs(x * fire_y - y * fire_x)
    return (along < (new_units.LANCE_RADIUS + traits.radius) * length) & (
        across < (new_units.LANCE_REACH + traits.radius) * length
    )


def _heal(
    smax: Any, traits: Traits, orders: Orders, before: Units, health: Array, cooldown: Array
) -> tuple[Array, Array]:
    """Health and cooldowns (energy) after what the medivacs do."""
    heals = _in_range(before, traits, orders.patient, before.alive & ~traits.heals & (health > 0)) & traits.heals
    missing = _pick(traits.health - health, orders.patient)
    energy = before.cooldown
    most = jnp.minimum(new_units.HEAL_RATE * smax.time_per_step, energy * new_units.HEALTH_PER_ENERGY)
    healed = jax.lax.optimization_barrier(jnp.where(heals, jnp.minimum(most, missing), 0.0))
    energy = energy + new_units.ENERGY_RATE * smax.time_per_step - healed / new_units.HEALTH_PER_ENERGY
    energy = jnp.clip(energy, 0.0, traits.weapon_cooldown)
    health = health + _collect(orders.patient, healed, jnp.maximum)
    return health, jnp.where(traits.heals, energy, cooldown)


class Views(NamedTuple):
    """How the enemies, in their order, see the units of a team, last unit first, [team, M, B] each."""

    x: Array  # offset, map units
    y: Array
    distance: Array
    seen: Array  # bool


def _view(smax: Any, traits: Traits, units: Units, team: slice) -> Views:
    """What SMAX's observations tell the enemies of a team, with their roundings."""
    enemies = slice(smax.num_allies, None)
    sight = traits.sight_range[enemies]
    x, y = (position[team][::-1, None] - position[enemies] for position in (units.x, units.y))
    seen = (_length(x, y) < sight) & units.alive[enemies] & units.alive[team][::-1, None]
    x, y = x / sight * sight, y / sight * sight
    return jax.lax.optimization_barrier(Views(x, y, _length(x, y), seen))  # else computed anew at every use


def _enemy(smax: Any, traits: Traits, units: Units, policy: Any, draw: Array) -> tuple[Array, Any]:
    """JaxMARL's heuristic policy: actions i32[M, B], and what it remembers."""
    enemies = slice(smax.num_allies, None)
    views = _view(smax, traits, units, slice(smax.num_allies))
    target, shoots = _shot(traits.attack_range[enemies], views, policy.last_attacked_enemy)
    # Out of sight of everybody, it goes to where it started, mirrored at the centre of the map.
    x, y = (jnp.where(units.alive, position, 0.0)[enemies] for position in (units.x, units.y))
    initial = (policy.default_target == 0.0).all(axis=1) & (policy.last_attacked_enemy == -1)
    start = jnp.stack([smax.map_width - x, smax.map_height - y], axis=1)
    default_target = jnp.where(initial[:, None], start, policy.default_target)
    sees, offset_x, offset_y = _follow(views, draw)
    goal_x = jnp.where(sees, offset_x + x, default_target[:, 0]) - x
    goal_y = jnp.where(sees, offset_y + y, default_target[:, 1]) - y
    action = jnp.where(shoots, FIRST_ATTACK + target, _towards(goal_x, goal_y))
    if _new(smax) == "medivac":
        action = jnp.where(traits.heals[enemies] & units.alive[enemies], _care(smax, traits, units, action), action)
    policy = policy.replace(default_target=default_target, last_attacked_enemy=jnp.where(shoots, target, -1))
    return action, policy


def _shot(attack_range: Array, views: Views, last: Array) -> tuple[Array, Array]:
    """Whom to shoot at, i32[M, B], and whether: the last one as long as it is in range, else the nearest."""
    target, nearest = jnp.zeros_like(last), jnp.full(last.shape, jnp.inf)
    keeps = jnp.zeros(last.shape, bool)
    for number, (distance, seen) in enumerate(zip(views.distance, views.seen, strict=True)):
        in_range = seen & (distance < attack_range)
        keeps |= in_range & (last == number)
        nearer = in_range & (distance < nearest)
        target, nearest = jnp.where(nearer, number, target), jnp.where(nearer, distance, nearest)
    return jnp.where(keeps, last, target), nearest < jnp.inf


def _follow(views: Views, draw: Array) -> tuple[Array, Array, Array]:
    """Whether anybody is seen, and the offset of one of those, drawn uniformly: bool, f32, f32 [M, B]."""
    count = functools.reduce(operator.add, views.seen.astype(jnp.int32))
    wanted = jnp.ceil((1.0 - draw) * count).astype(jnp.int32)  # as jax.random.choice does, 1 <= wanted <= count
    x, y, number = jnp.zeros(count.shape), jnp.zeros(count.shape), jnp.zeros_like(count)
    for offset_x, offset_y, seen in zip(views.x, views.y, views.seen, strict=True):
        number += seen
        chosen = seen & (number == wanted)
        x, y = jnp.where(chosen, offset_x, x), jnp.where(chosen, offset_y, y)
    return count > 0, x, y


def _towards(x: Array, y: Array) -> Array:
    """i32[...]: the movement of up, right, down, left that leads there the most; the first of equals."""
    action, most = jnp.zeros(x.shape, jnp.int32), y
    for number, along in enumerate((x, -y, -x), start=1):
        better = along > most
        action, most = jnp.where(better, number, action), jnp.where(better, along, most)
    return action


def _care(smax: Any, traits: Traits, units: Units, action: Array) -> Array:
    """i32[M, B]: what a medivac of the enemies does: heals the weakest in range, else goes to who needs it."""
    me = jnp.arange(smax.num_allies, len(units.x))[:, None]
    nothing = jnp.full(action.shape, jnp.inf)
    weakest, least = jnp.zeros_like(action), nothing
    to_hurt = to_any = (nothing, nothing, nothing)  # distance and offset
    views = _view(smax, traits, units, slice(smax.num_allies, None))
    for place, other in enumerate(reversed(range(smax.num_allies, len(units.x)))):
        x, y, distance, seen = (values[place] for values in views)
        health = units.health[other] / traits.health[other]
        patient = seen & ~traits.heals[other] & (me != other)
        hurt = patient & (health < 1.0)
        weaker = hurt & (distance < new_units.NEW_UNITS["medivac"]["attack_ranges"]) & (health < least)
        weakest, least = jnp.where(weaker, place, weakest), jnp.where(weaker, health, least)
        offset = (distance, x, y)
        to_hurt, to_any = _nearer(to_hurt, offset, hurt), _nearer(to_any, offset, patient)
    goal = tuple(jnp.where(to_hurt[0] < jnp.inf, hurt, any_) for hurt, any_ in zip(to_hurt, to_any, strict=True))
    go = jnp.where(goal[0] < new_units.FOLLOW, STOP, _towards(goal[1], goal[2]))
    alone = jnp.minimum(action, STOP)
    return jnp.where(least < jnp.inf, FIRST_ATTACK + weakest, jnp.where(goal[0] < jnp.inf, go, alone))


def _nearer(best: tuple[Array, ...], offset: tuple[Array, ...], counts: Array) -> tuple[Array, ...]:
    """`best` (distance, x, y), or `offset` where it `counts` and is nearer."""
    nearer = counts & (offset[0] < best[0])
    return tuple(jnp.where(nearer, new, old) for new, old in zip(offset, best, strict=True))


def _length(x: Array, y: Array) -> Array:
    return jnp.sqrt(x * x + y * y)


def _any(flags: Array) -> Array:
    """Over the first axis."""
    return functools.reduce(operator.or_, flags)


class Seen(NamedTuple):
    """What the allies and the critic see."""

    obs: Array  # f32[N, O]
    state: Array  # f32[G]
    avail: Array  # bool[N, A]


def observe(smax: Any, sight_range: float | None, state: Any) -> Seen:
    """JaxMARL's observations, world state and available actions of the allies, for one environment.

    `sight_range` replaces that of every ally's type.
    """
    allies, position, alive = smax.num_allies, state.unit_positions, state.unit_alive
    traits = jax.tree.map(lambda column: column[:, 0], _traits(smax, state.unit_types[:, None]))
    sight = traits.sight_range if sight_range is None else jnp.full_like(traits.sight_range, sight_range)
    distance = _length(*jnp.moveaxis(position - position[:allies, None], -1, 0))  # [N, U]
    both = alive & alive[:allies, None]

    one_hot = (state.unit_types[:, None] == jnp.arange(len(smax.unit_type_names))).astype(jnp.float32)
    health, cooldown = (state.unit_health / traits.health)[:, None], state.unit_weapon_cooldowns[:, None]
    rest = jnp.clip(cooldown / traits.weapon_cooldown[:, None], 0.0, 1.0)
    shown = jnp.concatenate([health, position, *_last_actions(smax, state), rest, one_hot], axis=1)
    own = jnp.concatenate([health, position / np.array([smax.map_width, smax.map_height]), rest, one_hot], axis=1)
    unit = jnp.concatenate([health, position, cooldown, one_hot], axis=1)
    others = _others(shown, both & (distance < sight[:allies, None]), sight[:allies])
    own, unit = jnp.where(alive[:, None], own, 0.0)[:allies], jnp.where(alive[:, None], unit, 0.0)
    return Seen(
        obs=jnp.concatenate([others.reshape(allies, -1), own], axis=1),
        state=jnp.concatenate([unit.ravel(), state.unit_teams, state.unit_types.astype(jnp.float32)]),
        avail=_available(smax, traits, alive, both & (distance < traits.attack_range[:allies, None])),
    )


def _last_actions(smax: Any, state: Any) -> tuple[Array, Array]:
    """f32[U, 2] and f32[U, 1]: movements and attack actions as the allies see them."""
    ally = (np.arange(smax.num_allies + smax.num_enemies) < smax.num_allies)[:, None]
    largest = np.where(ally, smax.num_ally_actions - 1, smax.num_enemy_actions - 1).astype(np.float32)
    movement, attack = state.prev_movement_actions, state.prev_attack_actions[:, None] / largest
    if smax.see_enemy_actions:
        return movement, attack
    return jnp.where(ally, movement, 0.0), jnp.where(ally, attack, 0.0)


def _others(shown: Array, seen: Array, sight: Array) -> Array:
    """f32[N, U - 1, F]: what each ally sees of every other unit, in order.

    Args:
        shown: f32[U, F], the units' features, the second and third of which are the position.
        seen: bool[N, U].
        sight: f32[N], the unit of distances.
    """
    allies, (units, features) = len(sight), shown.shape
    is_position = np.isin(np.arange(features), (1, 2))
    origin = jnp.where(is_position, shown[:allies], 0.0)
    scale = jnp.where(is_position & (sight[:, None] > 0), 1.0 / sight[:, None], 1.0)
    later = np.arange(units - 1) >= np.arange(allies)[:, None]  # beyond oneself, who is left out
    seen = jnp.where(later, seen[:, 1:], seen[:, :-1]).astype(shown.dtype)
    # Without the barriers XLA computes the small tables again for every element of the large ones.
    shown, origin, scale, seen = jax.lax.optimization_barrier((shown, origin, scale, seen))
    others = jnp.where(later[..., None], shown[1:], shown[:-1])
    return jax.lax.optimization_barrier((others - origin[:, None]) * scale[:, None] * seen[..., None])


def _available(smax: Any, traits: Traits, alive: Array, in_range: Array) -> Array:
    """bool[N, A]: up, right, down, left; stop; then the enemies in range, or for a medivac the allies that it can heal.

    in_range: bool[N, U], the other unit and oneself are alive.
    """
    allies = smax.num_allies
    targets = in_range[:, allies:]
    if _new(smax) == "medivac":
        patients = in_range[:, :allies] & ~traits.heals[:allies]
        patients = jnp.pad(patients, ((0, 0), (0, smax.num_enemies - allies)))
        targets = jnp.where(traits.heals[:allies, None], patients, targets)
    moves = jnp.broadcast_to(alive[:allies, None], (allies, STOP))
    return jnp.concatenate([moves, jnp.ones((allies, 1), bool), targets], axis=1)
