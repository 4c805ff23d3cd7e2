"""SMAC-v2's scenarios: what is drawn, new units in fights worked out by hand, and every end of an episode."""

from __future__ import annotations

import itertools
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from meigm_jax import envs
from meigm_jax.engine.rollout import collect
from meigm_jax.envs import smacv2, smacv2_units
from meigm_jax.ops import policies
from meigm_jax.types import Algorithm, Array, Env

RESETS = 10_000
UNLIKELY = 1e-3  # p-value below which a distribution counts as wrong; the keys are fixed
STOP, ATTACK = 4, 5
SCENARIOS = [f"smax_{race}_{size}" for race in envs.RACES for size in envs.TEAM_SIZES]


def sizes(name: str) -> tuple[int, int]:
    allies, enemies = name.split("_")[2].split("v")
    return int(allies), int(enemies)


@cache
def resets(name: str) -> Any:
    """SMAX's states after so many resets."""
    env = envs.make(name)
    keys = jax.random.split(jax.random.key(7), RESETS)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: env.reset(key)[0].state))(keys))


@cache
def teams(race: str, size: str, unit_types: str) -> np.ndarray:
    """i[resets, units]: types, allies first, as a reset draws them."""
    if unit_types == "three" and size != "20v23":
        return resets(f"smax_{race}_{size}").unit_types
    generator = smacv2.Teams(*map(int, size.split("v")), smacv2.RACES[race], smacv2.WEIGHTS[unit_types])
    return np.asarray(jax.vmap(generator.generate)(jax.random.split(jax.random.key(7), RESETS)))


DRAWN = [
    ("protoss", "5v5", "three"),
    ("terran", "10v11", "three"),
    ("zerg", "20v23", "three"),
    ("protoss", "10v11", "two"),
]


def team_probabilities(race: str, unit_types: str, size: int) -> dict[tuple[int, ...], float]:
    """Of every number of units of each type: by enumeration, given that the exceptions alone are no team."""
    weights = {"two": (0.5, 0.5), "three": (0.45, 0.45, 0.1)}[unit_types]
    counts = [c for c in itertools.product(range(size + 1), repeat=len(weights)) if sum(c) == size]
    if unit_types == "three" and race != "protoss":
        counts.remove((0, 0, size))
    found = {c: stats.multinomial.pmf(c, size, weights) for c in counts}
    return {c: float(p / sum(found.values())) for c, p in found.items()}


def p_value(drawn: np.ndarray, probabilities: dict[tuple[int, ...], float]) -> float:
    """Of the counts drawn, i[samples, types], by a chi-square test; rare ones count together."""
    number = {c: int((drawn == c).all(-1).sum()) for c in probabilities}
    assert sum(number.values()) == len(drawn), "something was drawn that can't be"
    rare = [c for c, p in probabilities.items() if p * len(drawn) < 5]
    bins = [[c] for c in probabilities if c not in rare] + ([rare] if rare else [])
    observed = [sum(number[c] for c in group) for group in bins]
    expected = [sum(probabilities[c] for c in group) * len(drawn) for group in bins]
    return 1.0 if len(bins) == 1 else float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize(("race", "size", "unit_types"), DRAWN)
def test_the_teams_are_drawn_by_weight(race: str, size: str, unit_types: str) -> None:
    allies = int(size.split("v")[0])
    types, weights = teams(race, size, unit_types), smacv2.WEIGHTS[unit_types]
    np.testing.assert_array_equal(types[:, :allies], types[:, allies : 2 * allies])  # the enemies copy the allies
    kinds = np.arange(len(weights))
    for team in (types[:, :allies], types[:, 2 * allies :]):
        if number := team.shape[1]:
            counts = (team[..., None] == kinds).sum(1)
            assert p_value(counts, team_probabilities(race, unit_types, number)) > UNLIKELY
    # Every unit alike: were the draws tied to places, the first and the last would tell.
    share = {tuple(row): w for row, w in zip(np.eye(len(kinds), dtype=int), weights, strict=True)}
    for place in (0, allies - 1):
        assert p_value(np.eye(len(kinds), dtype=int)[types[:, place]], share) > UNLIKELY


def test_additional_enemies_are_of_the_race_and_no_exceptions_alone() -> None:
    terran = resets("smax_terran_10v11").unit_health[:, 20:]
    marine, marauder = 45, 125
    assert set(np.unique(terran)) == {marine, marauder}  # a medivac would be alone
    zerg = teams("zerg", "20v23", "three")[:, 40:]
    assert set(np.unique(zerg)) == {0, 1, 2} and not (zerg == 2).all(1).any()
    assert set(np.unique(teams("protoss", "10v11", "two")[:, 20:])) == {0, 1}


@pytest.mark.parametrize("race", envs.RACES)
def test_types_are_numbered_as_the_race_names_its_units(race: str) -> None:
    """The health that a type stands for; JaxMARL's own extra enemies are marines, of 45."""
    health = {"protoss": [160, 150, 350], "terran": [45, 125, 150], "zerg": [35, 80, 30]}
    names = smacv2.RACES[race]
    types, positions = smacv2.Teams(1, 1, names, (1, 0, 0)), smacv2.StartPositions(1, 1, 32, 32)
    units = smacv2_units.NineUnits(names, types, positions)
    np.testing.assert_array_equal(units.unit_type_health, health[race])


def uniform(values: np.ndarray, low: float, high: float, bins: int) -> float:
    """p-value of a chi-square test that these are uniform."""
    return float(stats.chisquare(np.histogram(np.clip(values, low, high), bins, (low, high))[0]).pvalue)


@pytest.mark.parametrize("name", ["smax_protoss_5v5", "smax_terran_10v11"])
def test_units_start_within_the_map_reflected_or_surrounded(name: str) -> None:
    allies, _ = sizes(name)
    state = resets(name)
    at = state.unit_positions
    assert at.min() >= 0.5 and at.max() <= 31.5
    mirrored = at[:, allies : 2 * allies] * [-1, 1] + [32, 0]
    # Half of them: an additional enemy may have pushed others aside.
    reflected = (np.abs(at[:, :allies] - mirrored) < 1e-3).all(-1).mean(-1) >= 0.5
    surrounded = (np.linalg.norm(at[:, :allies] - 16, axis=-1) < 5.5).all(-1) & ~reflected
    assert (reflected | surrounded).mean() > 0.999
    assert stats.binomtest(int(reflected.sum()), RESETS).pvalue > UNLIKELY
    ally, extra = at[reflected, 0], at[reflected, -1]
    assert uniform(ally[:, 0], 0, 15, 5) > UNLIKELY and uniform(ally[:, 1], 0, 32, 8) > UNLIKELY
    assert (at[reflected][:, :allies, 0] < 16).all()
    assert uniform(extra[:, 0], *((16, 32) if at.shape[1] > 2 * allies else (17, 32)), 5) > UNLIKELY
    assert np.linalg.norm(at[surrounded, :allies].mean(1) - 16, axis=-1).mean() < 1


def test_nobody_overlaps_at_the_start() -> None:
    state = resets("smax_protoss_5v5")
    at, radius = state.unit_positions, np.array([0.625, 0.5, 1.0])[state.unit_types]
    distance = np.linalg.norm(at[:, :, None] - at[:, None], axis=-1) + 9 * np.eye(10)
    overlap = radius[:, :, None] + radius[:, None] - distance
    assert (overlap > 0.01).any((1, 2)).mean() < 0.01  # a crowd in a corner


def test_surrounding_groups() -> None:
    enemies = 11
    starts = smacv2.StartPositions(10, enemies, 32, 32)
    keys = jax.random.split(jax.random.key(1), RESETS)
    at = np.asarray(jax.jit(jax.vmap(starts.surround))(keys))[:, 10:] - 16
    # The first unit of a group stands where the group is, on a diagonal: 2 to 16 from the centre, both ways.
    assert uniform(np.abs(at[:, 0, 0]), 2, 16, 14) > UNLIKELY
    corner = (at[:, 0] > 0) @ [1, 2]
    assert stats.chisquare(np.bincount(corner, minlength=4)).pvalue > UNLIKELY
    first = np.abs(np.abs(at[..., 0]) - np.abs(at[..., 1])) < 1e-3
    groups = first.sum(1)  # those with a unit in them
    expected = [
        sum(occupied(enemies, n, k) for n in range(1, 5)) / 4 * RESETS for k in range(1, 5)
    ]  # 1 to 4 groups, each with probability one quarter
    assert stats.chisquare(np.bincount(groups, minlength=5)[1:], expected).pvalue > UNLIKELY
    for corners, is_first in zip((at > 0) @ [1, 2], first, strict=True):
        assert len(set(corners[is_first])) == is_first.sum()  # each on a diagonal of its own


def occupied(units: int, groups: int, k: int) -> float:
    """Probability that `units` fall into exactly k of so many groups, by inclusion and exclusion."""
    from math import comb

    onto = sum((-1) ** j * comb(k, j) * (k - j) ** units for j in range(k))
    return comb(groups, k) * onto / groups**units


# Fights. Both teams have five units; a unit that a fight does not name is dead.
Unit = tuple[str, float, float, float]  # type, x, y, health


@cache
def arena(race: str) -> tuple[Env, Any, Any]:
    """The environment, its compiled step, and a state to start from."""
    env = envs.make(f"smax_{race}_5v5")
    return env, jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))[0]


def place(race: str, allies: list[Unit], enemies: list[Unit], **changes: float) -> Any:
    """The state of a fight in which no enemy can shoot for 10 s."""
    _, _, env_state = arena(race)
    dead: Unit = (smacv2.RACES[race][0], 1.0, 1.0, 0.0)
    units = [*allies, *[dead] * (5 - len(allies)), *enemies, *[dead] * (5 - len(enemies))]
    kinds = [smacv2.RACES[race].index(kind) for kind, *_ in units]
    health = jnp.array([unit[3] for unit in units], jnp.float32)
    waits = jnp.where(jnp.arange(10) < 5, 0.0, 10.0)
    energy = jnp.where(jnp.array([kind == "medivac" for kind, *_ in units]), changes.get("energy", 50.0), waits)
    state = env_state.state.replace(
        unit_positions=jnp.array([unit[1:3] for unit in units], jnp.float32),
        unit_types=jnp.array(kinds, jnp.uint8),
        unit_health=health,
        unit_alive=health > 0,
        unit_weapon_cooldowns=jnp.asarray(energy, jnp.float32),
    )
    return env_state.replace(state=state)


def act(race: str, env_state: Any, **actions: int) -> tuple[Any, Any, float, bool, bool, float]:
    """One step in which ally `a0` to `a4` does what is said, and everybody else stops."""
    _, step, _ = arena(race)
    action = jnp.array([actions.get(f"a{i}", STOP) for i in range(5)], jnp.int32)
    env_state, at, reward, terminated, truncated, info = step(jax.random.key(3), env_state, action)
    return env_state.state, at, float(reward), bool(terminated), bool(truncated), float(info["win"])


def test_a_colossus_sweeps_a_line_across_its_fire() -> None:
    start = place(
        "protoss",
        [("colossus", 10, 16, 350), ("zealot", 15, 15, 150)],
        [
            ("zealot", 15, 16, 150),  # the target
            ("zealot", 15, 17.89, 150),  # 1.89 < 1.4 + 0.5 across
            ("zealot", 15, 14.09, 150),  # 1.91: beyond the line's end
            ("stalker", 15.77, 16, 160),  # 0.77 < 0.15 + 0.625 behind
            ("zealot", 15.66, 15.5, 150),  # 0.66 > 0.15 + 0.5 behind
        ],
    )
    state, _, reward, terminated, _, _ = act("protoss", start, a0=ATTACK)
    # 10 and 5 more against light, by each of the two lances; one volley in half a second.
    np.testing.assert_allclose(state.unit_health[5:], [120, 120, 150, 140, 150])
    np.testing.assert_allclose(state.unit_health[:2], [350, 150])  # friends in the line are spared
    assert reward == pytest.approx((30 / 150 + 30 / 150 + 20 / 160) / 5) and not terminated
    assert 0.5 < float(state.unit_weapon_cooldowns[0]) < 1.07


def test_an_enemy_colossus_sweeps_too() -> None:
    start = place("protoss", [("zealot", 15, 16, 150), ("zealot", 15, 17.5, 150)], [("colossus", 20, 16, 350)])
    ready = start.state.replace(unit_weapon_cooldowns=jnp.zeros(10))
    state, _, reward, *_ = act("protoss", start.replace(state=ready))
    np.testing.assert_allclose(state.unit_health[:2], [120, 120])
    assert reward == 0


def test_a_colossus_out_of_range_does_nothing() -> None:
    start = place("protoss", [("colossus", 10, 16, 350)], [("zealot", 26, 16, 150)])
    state, at, reward, *_ = act("protoss", start, a0=ATTACK)
    assert float(state.unit_health[5]) == 150 and reward == 0 and not at.avail[0, ATTACK:].any()


def test_a_baneling_dies_by_its_splash() -> None:
    start = place(
        "zerg",
        [("baneling", 10, 16, 30), ("zergling", 10, 15, 35)],
        [
            ("zergling", 11.9, 16, 35),  # the target
            ("hydralisk", 12.8, 16, 80),  # 2.8 < 2.2 + 0.625
            ("hydralisk", 10, 18.85, 80),  # 2.85: too far
            ("baneling", 8, 16, 30),
        ],
    )
    state, at, reward, terminated, _, _ = act("zerg", start, a0=ATTACK)
    np.testing.assert_allclose(state.unit_health, [0, 35, 0, 0, 0, 0, 45, 80, 14, 0])  # 35 to light units, else 16
    assert reward == pytest.approx((35 / 35 + 35 / 80 + 16 / 30) / 5) and not terminated
    assert not at.obs[0].any() and at.obs[1].any()
    np.testing.assert_array_equal(at.avail[0], np.arange(10) == STOP)


def test_a_baneling_that_reaches_nobody_lives() -> None:
    start = place("zerg", [("baneling", 10, 16, 30)], [("zergling", 14, 16, 35)])
    state, *_ = act("zerg", start, a1=ATTACK)
    assert float(state.unit_health[0]) == 30 and float(state.unit_health[5]) == 35


def test_an_enemy_baneling_bursts_and_counts_as_damage() -> None:
    start = place("zerg", [("hydralisk", 10, 16, 80), ("hydralisk", 10, 20, 80)], [("baneling", 11, 16, 30)])
    ready = start.state.replace(unit_weapon_cooldowns=jnp.zeros(10))
    state, _, reward, terminated, _, win = act("zerg", start.replace(state=ready))
    np.testing.assert_allclose(np.asarray(state.unit_health)[[0, 1, 5]], [45, 80, 0])
    assert (terminated, win) == (True, 1) and reward == pytest.approx(1 + 1 / 5)


def test_the_last_of_both_teams_is_a_draw() -> None:
    start = place("zerg", [("baneling", 10, 16, 30)], [("zergling", 11, 16, 35)])
    *_, reward, terminated, truncated, win = act("zerg", start, a0=ATTACK)
    assert (terminated, truncated, win) == (True, False, 0) and reward == pytest.approx(1 / 5)


FAR = ("marauder", 28.0, 28.0, 125.0)  # an enemy that takes no part


def test_a_medivac_heals_by_its_rate_and_pays_with_energy() -> None:
    start = place("terran", [("medivac", 10, 16, 150), ("marine", 12, 16, 20)], [FAR])
    state, at, reward, *_ = act("terran", start, a0=ATTACK + 1)
    assert float(state.unit_health[1]) == pytest.approx(20 + 12.6 / 2)  # half a second
    energy = 50 + 0.7875 / 2 - 6.3 / 3
    assert float(state.unit_weapon_cooldowns[0]) == pytest.approx(energy)
    assert reward == 0
    own = at.obs[0, -7:]
    np.testing.assert_allclose(own, [1, 10 / 32, 16 / 32, energy / 200, 0, 0, 1], atol=1e-6)
    state_features = arena("terran")[0].normalise(at).state[:7]
    np.testing.assert_allclose(state_features, own, atol=1e-6)


def test_heals_end_at_full_health_and_where_energy_does_and_do_not_add_up() -> None:
    start = place("terran", [("medivac", 10, 16, 150), ("marine", 12, 16, 44)], [FAR])
    state, *_ = act("terran", start, a0=ATTACK + 1)
    assert float(state.unit_health[1]) == 45
    assert float(state.unit_weapon_cooldowns[0]) == pytest.approx(50 + 0.7875 / 2 - 1 / 3)
    start = place("terran", [("medivac", 10, 16, 150), ("marine", 12, 16, 20)], [FAR], energy=0.0)
    state, *_ = act("terran", start, a0=ATTACK + 1)
    assert float(state.unit_health[1]) == pytest.approx(20 + 3 * 0.7875 * 7 / 16, rel=1e-5)  # what has come back
    both = [("medivac", 10, 16, 150), ("marine", 12, 16, 20), ("medivac", 14, 16, 150)]
    state, *_ = act("terran", place("terran", both, [FAR]), a0=ATTACK + 1, a2=ATTACK + 1)
    assert float(state.unit_health[1]) == pytest.approx(26.3)


def test_a_medivac_may_heal_who_is_alive_near_and_no_medivac() -> None:
    allies = [
        ("medivac", 10, 16, 150),
        ("marine", 13.9, 16, 45),  # may be healed, though it does not need it
        ("medivac", 11, 16, 150),
        ("marine", 10, 20.1, 20),  # too far
    ]
    start = place("terran", allies, [("marine", 10, 14, 45), FAR])
    state, at, *_ = act("terran", start, a0=ATTACK + 2)
    # Moves, stop, and of the allies the first marine alone; the enemy is nobody to it.
    np.testing.assert_array_equal(at.avail[0], [1, 1, 1, 1, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(at.avail[1, ATTACK:], [1, 0, 0, 0, 0])  # a marine's are enemies
    assert float(state.unit_weapon_cooldowns[0]) > 50  # it has healed nobody: not a medivac
    np.testing.assert_array_equal(at.avail[4], np.arange(10) == STOP)


def test_medivacs_collide_with_nobody() -> None:
    at = [[10.0, 16.0], [10.2, 16.0], [20.0, 16.0], [20.2, 16.0]]
    allies = [("medivac", *at[0], 150), ("marine", *at[1], 45), ("marine", *at[2], 45), ("marine", *at[3], 45)]
    state, *_ = act("terran", place("terran", allies, [FAR]))
    np.testing.assert_allclose(state.unit_positions[:2], at[:2], atol=1e-5)
    assert float(jnp.linalg.norm(state.unit_positions[3] - state.unit_positions[2])) > 0.7  # marines have 0.375 each


def test_what_the_enemy_heals_is_never_rewarded() -> None:
    away = [("marine", 4.0, 4.0, 45.0)]
    start = place("terran", away, [("marauder", 25, 25, 50), ("medivac", 26, 26, 150)])
    state, _, reward, *_ = act("terran", start)
    assert float(state.unit_health[5]) == pytest.approx(56.3) and reward == 0
    # A marine's shot takes 9 of it meanwhile: what remains is 9 - 6.3.
    start = place("terran", [("marine", 21.0, 25.0, 45.0)], [("marauder", 25, 25, 50), ("medivac", 26, 26, 150)])
    state, _, reward, *_ = act("terran", start, a0=ATTACK)
    assert float(state.unit_health[5]) == pytest.approx(47.3) and reward == pytest.approx(2.7 / 125 / 5, rel=1e-4)


def test_enemy_medivacs_go_where_they_are_needed() -> None:
    enemies = [("medivac", 20, 16, 150), ("marauder", 12, 16, 50), ("marauder", 20, 22, 125)]
    state, *_ = act("terran", place("terran", [("marine", 4.0, 4.0, 45.0)], enemies))
    np.testing.assert_allclose(state.unit_positions[5], [20 - 3.5 / 2, 16], atol=1e-4)


def test_medivacs_alone_are_a_defeat() -> None:
    medivac, marine = ("medivac", 10.0, 16.0, 150.0), ("marine", 10.0, 18.0, 45.0)
    *_, terminated, _, win = act("terran", place("terran", [medivac], [FAR]))
    assert (terminated, win) == (True, 0)
    *_, reward, terminated, _, win = act("terran", place("terran", [medivac, marine], [("medivac", 20, 16, 150)]))
    assert (reward, terminated, win) == (1, True, 1)
    *_, reward, terminated, _, win = act("terran", place("terran", [medivac], [("medivac", 20, 16, 150)]))
    assert (reward, terminated, win) == (0, True, 0)


# Whole episodes.
LIMIT, ENVS, ROWS = 24, 48, 80


def act_at_random(learner: Any, carry: Any, at: Any, noise: Array, step: Array, greedy: bool) -> tuple[Array, Any]:
    """At random among the available actions, mostly attacking or healing where that is possible."""
    preference = jnp.broadcast_to(jnp.where(jnp.arange(at.avail.shape[-1]) > STOP, 4.0, 0.0), at.avail.shape)
    return policies.sample(policies.boltzmann(preference, at.avail), at.avail, noise), carry


@pytest.fixture(scope="module")
def chunk() -> Any:
    """Episodes against enemies of whom half have little health, one after the other; and SMAX's states."""
    env = envs.make("smax_terran_5v5", max_steps=LIMIT)

    def reset(key: Array) -> tuple[Any, Any]:
        env_state, at = env.reset(key)
        weak = jax.random.bernoulli(key) & (jnp.arange(10) >= 5)
        state = env_state.state
        return env_state.replace(state=state.replace(unit_health=jnp.where(weak, 5.0, state.unit_health))), at

    nothing: Any = None  # is learnt
    random = Algorithm(lambda *_: nothing, lambda number: (), act_at_random, lambda *_: nothing)
    run = partial(collect, env._replace(reset=reset), random, nothing, num_envs=ENVS, length=ROWS)
    kept = jax.jit(partial(run, keep=lambda env_state: env_state.state))(jax.random.key(5), jnp.int32(0))
    return jax.tree.map(np.asarray, kept)


def test_episodes_end_by_win_loss_and_time_limit(chunk: Any) -> None:
    trajectory, _, state = chunk
    fights = (state.unit_health > 0) & (state.unit_types != 2)
    lost, won = ~fights[..., :5].any(-1), ~fights[..., 5:].any(-1)
    after = slice(1, None)  # flags are of the row before the state that they tell of
    np.testing.assert_array_equal(trajectory.terminated, (lost | won)[after] & trajectory.valid)
    late = state.step[after] == LIMIT + 1
    np.testing.assert_array_equal(trajectory.truncated, late & ~(lost | won)[after] & trajectory.valid)
    bonus = trajectory.reward >= 1
    np.testing.assert_array_equal(bonus, (won & ~lost)[after] & trajectory.valid)
    assert trajectory.truncated.any() and (won & ~lost)[after][trajectory.terminated].any()
    assert (lost & ~won)[after][trajectory.terminated].any()
    assert (trajectory.reward >= 0).all()


def test_the_dead_only_stop_and_see_nothing_until_the_next_episode(chunk: Any) -> None:
    trajectory, _, state = chunk
    dead = state.unit_health[..., :5] <= 0
    at = trajectory.at
    assert dead.any() and (at.avail[dead] == (np.arange(10) == STOP)).all() and not at.obs[dead].any()
    assert (at.avail[~dead].sum(-1) >= 5).all() and at.obs[~dead].any(-1).all()
    again = at.first[1:]  # a new episode, and who was dead in the row before it
    assert again.sum() > ENVS and dead[:-1][again].any()
    fresh = at.obs[1:][again][dead[:-1][again]]
    np.testing.assert_array_equal(fresh[:, -7], 1)  # health
    np.testing.assert_array_equal(at.last_action[1:][again], -1)
    assert (at.avail[1:][again].sum(-1) >= 5).all()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_the_sizes_of_its_name(name: str) -> None:
    allies, enemies = sizes(name)
    for unit_types, kinds in (("two", 2), ("three", 3)):
        spec = envs.make(name, unit_types=unit_types).spec
        assert (spec.num_agents, spec.num_actions) == (allies, 5 + max(allies, enemies))
        assert spec.obs_dim == (7 + kinds) * (allies + enemies - 1) + 4 + kinds
        assert (spec.state_dim, spec.unit_dim) == ((4 + kinds + 2) * (allies + enemies), 4 + kinds)
        assert (spec.episode_limit, spec.outcomes) == (101, ("win",))


def test_sight_range_is_of_allies_alone() -> None:
    """On 3m: three environments that differ in it, from the same keys, by the same actions."""
    family = [envs.make("smax_3m", sight_range=sight) for sight in (None, 0.0, 64.0)]

    def play(key: Array) -> list[Any]:
        begun = [env.reset(key) for env in family]
        acts = jnp.array([1, 1, 0])

        def advance(states: list[Any], key: Array) -> tuple[list[Any], list[Any]]:
            done = [env.step(key, state, acts) for env, state in zip(family, states, strict=True)]
            return [x[0] for x in done], [x[1] for x in done]

        return jax.lax.scan(advance, [state for state, _ in begun], jax.random.split(key, 8))[1]

    usual, blind, all_seeing = jax.tree.map(np.asarray, jax.jit(play)(jax.random.key(0)))
    np.testing.assert_array_equal(usual.state, blind.state)  # the enemies see as far as ever, and do the same
    np.testing.assert_array_equal(usual.avail, blind.avail)
    np.testing.assert_array_equal(usual.obs[..., -10:], blind.obs[..., -10:])
    assert not blind.obs[..., :-10].any() and usual.obs[..., :-10].any()
    units = usual.state[:, :60].reshape(8, 6, 10)
    offset = (units[:, 3:, 1:3] - units[:, :1, 1:3]) / 64  # of the enemies, as the first marine sees them
    seen = all_seeing.obs[:, 0, 2 * 13 : 5 * 13].reshape(8, 3, 13)[..., 1:3]
    alive = (units[:, 3:, 0] > 0) & (units[:, :1, 0] > 0)
    np.testing.assert_allclose(seen[alive], offset[alive], atol=1e-6)
    assert usual.avail[..., 5:].any()
