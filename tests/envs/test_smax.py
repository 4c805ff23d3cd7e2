"""SMAX behind our interface against raw JaxMARL, over whole episodes and at every way an episode can end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax import envs
from meigm_jax.engine import replay
from meigm_jax.envs.quiet import quiet
from meigm_jax.envs.training import for_training
from meigm_jax.types import Array, Env, TimeStep

with quiet():
    import jaxmarl
    from jaxmarl.environments.smax import map_name_to_scenario

MAPS = {"smax_3m": "3m", "smax_2s3z": "2s3z", "smax_5v5": "smacv2_5_units"}
EPISODES = 32
STOP = 4


class Row(NamedTuple):
    """One step of one episode, from both sides."""

    time_step: TimeStep
    flow: tuple[Array, ...]  # reward, terminated, truncated, win
    normalised: TimeStep
    recomputed: tuple[Array, Array]  # observations and state, from what a replay keeps
    raw: dict[str, Any]


def raw_row(raw: Any, obs: Any, state: Any) -> dict[str, Any]:
    """JaxMARL's dicts, agents stacked in its own order."""
    avail = raw.get_avail_actions(state)
    return {
        "obs": jnp.stack([obs[agent] for agent in raw.agents]),
        "state": obs["world_state"],
        "avail": jnp.stack([avail[agent] for agent in raw.agents]),
    }


def choose(key: Array, avail: Array) -> Array:
    """i32[N]: random among the available actions, mostly holding out, or attacking where that is possible."""
    index = jnp.arange(avail.shape[-1])
    preference = jnp.select([index < STOP, index == STOP], [0.0, 2.0], 4.0)
    return jax.random.categorical(key, jnp.where(avail == 1, preference, -jnp.inf))


def weaken_enemies(env_state: Any, num_agents: int, share: Array) -> Any:
    """Enemies keep only a share of their health, so that some of the episodes are won."""
    units = env_state.state
    enemy = jnp.arange(len(units.unit_health)) >= num_agents
    return env_state.replace(state=units.replace(unit_health=jnp.where(enemy, share, 1.0) * units.unit_health))


def play(env: Env, raw: Any, key: Array) -> tuple[Row, Row]:
    """One episode of both from the same keys: the start, and episode_limit steps (the end is not stopped at).

    Every step of ours starts from JaxMARL's state: in collisions, a last digit grows from step to step.
    """
    env_state, time_step = env.reset(key)
    obs, raw_state = raw.reset(key)
    nothing = (jnp.float32(0), jnp.asarray(False), jnp.asarray(False), jnp.float32(0))
    assert env.compact is not None and env.expand is not None
    again = env.expand(env.compact(env_state))
    start = Row(time_step, nothing, env.normalise(time_step), again, raw_row(raw, obs, raw_state))

    share = jax.random.uniform(jax.random.fold_in(key, 2), minval=0.05)
    raw_state = weaken_enemies(raw_state, env.spec.num_agents, share)

    def advance(raw_state: Any, key: Array) -> tuple[Any, Row]:
        k_act, k_step = jax.random.split(key)
        avail = raw.get_avail_actions(raw_state)
        action = choose(k_act, jnp.stack([avail[agent] for agent in raw.agents]))
        env_state, time_step, reward, terminated, truncated, info = env.step(k_step, raw_state, action)
        actions = {agent: action[i] for i, agent in enumerate(raw.agents)}
        obs, raw_state, rewards, dones, _ = raw.step_env(k_step, raw_state, actions)
        expected = raw_row(raw, obs, raw_state) | {"action": action, "rewards": rewards, "done": dones["__all__"]}
        flow = (reward, terminated, truncated, info["win"])
        again = env.expand(env.compact(env_state))
        return raw_state, Row(time_step, flow, env.normalise(time_step), again, expected)

    keys = jax.random.split(jax.random.fold_in(key, 1), env.spec.episode_limit)
    return start, jax.lax.scan(advance, raw_state, keys)[1]


@pytest.fixture(scope="module", params=list(MAPS))
def episodes(request: pytest.FixtureRequest) -> tuple[Env, Row, Row]:
    env = envs.make(request.param)
    raw = jaxmarl.make("HeuristicEnemySMAX", scenario=map_name_to_scenario(MAPS[request.param]))
    keys = jax.random.split(jax.random.key(3), EPISODES)
    start, steps = jax.jit(jax.vmap(lambda key: play(env, raw, key)))(keys)
    return env, *jax.tree.map(np.asarray, (start, steps))


def test_equals_raw_jaxmarl(episodes: tuple[Env, Row, Row]) -> None:
    _, start, steps = episodes
    for row in (start, steps):
        np.testing.assert_allclose(row.time_step.obs, row.raw["obs"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(row.time_step.state, row.raw["state"], atol=1e-5, rtol=0)
        np.testing.assert_array_equal(row.time_step.avail, row.raw["avail"] == 1)
    reward, terminated, truncated, _ = steps.flow
    for agent_reward in steps.raw["rewards"].values():
        np.testing.assert_allclose(reward, agent_reward, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(terminated | truncated, steps.raw["done"])
    np.testing.assert_array_equal(steps.time_step.last_action, steps.raw["action"])
    assert (start.time_step.last_action == -1).all() and start.time_step.first.all() and not steps.time_step.first.any()


def test_what_a_replay_keeps_shows_the_same_again(episodes: tuple[Env, Row, Row]) -> None:
    """With the same units in sight: their edges are where rounding would tell."""
    for row in episodes[1:]:
        for again, seen in zip(row.recomputed, (row.time_step.obs, row.time_step.state), strict=True):
            np.testing.assert_array_equal(again == 0, seen == 0)
            np.testing.assert_allclose(again, seen, atol=1e-5, rtol=0)


def test_a_transition_of_smax_5v5_takes_200_bytes() -> None:
    """Per row 10 units of 16 + 2 bytes, 2 of who is alive, 7 of available actions, 1 of flags; 5 actions, a reward."""
    env = for_training(envs.make("smax_5v5"), 10.0)
    assert replay.nbytes(env, capacity=16, length=128, dtype=None) == 16 * (129 * (10 * 18 + 2 + 7 + 1) + 128 * (5 + 4))


def test_terminated_is_a_dead_team_and_win_the_rewards_bonus(episodes: tuple[Env, Row, Row]) -> None:
    env, _, steps = episodes
    reward, terminated, truncated, win = steps.flow
    units = env.spec.state_dim // 12
    health = steps.raw["state"][..., : 10 * units].reshape(*reward.shape, units, 10)[..., 0]
    dead_allies = (health[..., : env.spec.num_agents] == 0).all(-1)
    dead_enemies = (health[..., env.spec.num_agents :] == 0).all(-1)
    np.testing.assert_array_equal(terminated, dead_allies | dead_enemies)
    np.testing.assert_array_equal(win == 1, dead_enemies & ~dead_allies)
    # Damage alone gives less than 1 per step. After its end an episode goes on paying the bonus at every step.
    np.testing.assert_array_equal(win == 1, reward >= 1)
    assert win.any() and not win.any(1).all()
    last = steps.raw["done"].argmax(1)
    assert steps.raw["done"].any(1).all() and last.max() < env.spec.episode_limit
    assert not (terminated & truncated).any()


def test_the_dead_can_only_stop(episodes: tuple[Env, Row, Row]) -> None:
    env, _, steps = episodes
    dead = ~steps.time_step.obs.any(-1)
    assert dead.any()
    assert (steps.time_step.avail[dead] == (np.arange(env.spec.num_actions) == STOP)).all()
    assert (steps.time_step.avail[~dead].sum(-1) >= 5).all()


def test_normalised_inputs_are_of_order_one(episodes: tuple[Env, Row, Row]) -> None:
    env, start, steps = episodes
    units = env.spec.state_dim // 12
    for row in (start, steps):
        for inputs in (row.normalised.obs, row.normalised.state):
            assert inputs.min() > -1.1 and inputs.max() < 1.1
        raw = row.raw["state"][..., : 10 * units].reshape(EPISODES, -1, units, 10)
        features = row.normalised.state[..., : 10 * units].reshape(EPISODES, -1, units, 10)
        np.testing.assert_allclose(features[..., 1:3] * 32, raw[..., 1:3], atol=1e-4)
        np.testing.assert_allclose(features[..., 0], raw[..., 0], atol=1e-6)
        np.testing.assert_array_equal(features[..., 4:], raw[..., 4:])
        np.testing.assert_allclose(features[..., 3], np.clip(raw[..., 3] / 2, 0, 1), atol=1e-6)
        assert not features[raw[..., 0] == 0].any()
    assert steps.raw["state"].max() > 10  # the raw world state is not


def test_8m_vs_9m_is_marines_only() -> None:
    env = envs.make("smax_8m_vs_9m")
    _, time_step = env.reset(jax.random.key(0))
    units = time_step.state[: 17 * 10].reshape(17, 10)
    assert env.spec.num_agents == 8 and env.spec.num_actions == 5 + 9
    np.testing.assert_array_equal(units[:, 4:], np.eye(6)[np.zeros(17, int)])
    np.testing.assert_array_equal(time_step.state[170:], [0.0] * 8 + [1.0] * 9 + [0.0] * 17)


# Who is alive before the step, the step count before it -> terminated, truncated, win. The time limit is 7.
ENDS = [
    ("both alive", True, True, 0, (False, False, 0)),
    ("a step before the limit", True, True, 6, (False, False, 0)),
    ("time limit", True, True, 7, (False, True, 0)),
    ("win", True, False, 0, (True, False, 1)),
    ("loss", False, True, 0, (True, False, 0)),
    ("draw", False, False, 0, (True, False, 0)),
    ("win at the time limit", True, False, 7, (True, False, 1)),
]


@pytest.fixture(scope="module")
def limited() -> Env:
    """3m with a time limit of 7, stepped from any state by one compiled function."""
    env = envs.make("smax_3m", max_steps=7)
    return for_training(env._replace(reset=jax.jit(env.reset), step=jax.jit(env.step)), reward_scale=10.0)


@pytest.mark.parametrize(("allies", "enemies", "count", "flags"), [end[1:] for end in ENDS], ids=[e[0] for e in ENDS])
def test_flags_at_every_end(limited: Env, allies: bool, enemies: bool, count: int, flags: tuple[Any, ...]) -> None:
    env_state, _ = limited.reset(jax.random.key(0))
    alive = jnp.array([allies] * 3 + [enemies] * 3)
    units = env_state.state
    units = units.replace(unit_health=jnp.where(alive, units.unit_health, 0.0), step=jnp.asarray(count))
    action = jnp.full(3, STOP, jnp.int32)
    _, _, reward, terminated, truncated, info = limited.step(jax.random.key(1), env_state.replace(state=units), action)
    assert (terminated, truncated, info["win"]) == flags
    assert reward == 10 * info["win"]  # nobody is in range of a shot; the bonus is 1


def test_episode_limit_is_the_longest_episode(limited: Env) -> None:
    assert limited.spec.episode_limit == 8
    spec = envs.make("smax_3m", max_steps=1).spec
    assert (spec.min_episode_length, spec.episode_limit) == (2, 2)
    env_state, _ = limited.reset(jax.random.key(0))
    for step in range(1, 9):
        key = jax.random.fold_in(jax.random.key(0), step)
        env_state, _, _, terminated, truncated, _ = limited.step(key, env_state, jnp.zeros(3, jnp.int32))
        assert not terminated and truncated == (step == 8)


def test_training_reads_normalised_inputs(limited: Env) -> None:
    bare = envs.make("smax_3m", max_steps=7)
    _, raw = bare.reset(jax.random.key(5))
    env_state, time_step = limited.reset(jax.random.key(5))
    np.testing.assert_allclose(time_step.state, bare.normalise(raw).state, atol=1e-6)
    _, time_step, *_ = limited.step(jax.random.key(6), env_state, jnp.zeros(3, jnp.int32))
    assert time_step.state.max() <= 1 < raw.state.max()


def test_one_object_per_set_of_options() -> None:
    assert envs.make("smax_3m").step is envs.make("smax_3m", max_steps=100).step
    assert envs.make("smax_3m").step is not envs.make("smax_3m", walls_cause_death=False).step


def pixels(picture: np.ndarray, *channels: int) -> np.ndarray:
    """Where (row, column) the picture has exactly this colour."""
    return np.argwhere((picture == channels).all(-1))


def test_pictures_show_who_is_alive_where(limited: Env) -> None:
    env_state, _ = limited.reset(jax.random.key(2))
    moved, *_ = limited.step(jax.random.key(3), env_state, jnp.full(3, 1, jnp.int32))
    dead = jnp.arange(6) < 3
    lost = moved.replace(state=moved.state.replace(unit_alive=~dead))
    close = jnp.array([[10.0, 16.0], [10.0, 20.0], [10.0, 24.0], [13.0, 16.0], [20.0, 20.0], [20.0, 24.0]])
    shot = moved.state.replace(unit_positions=close, prev_attack_actions=jnp.array([5, 0, 0, 0, 0, 0]))
    states = jax.tree.map(np.asarray, [env_state, moved, lost, moved.replace(state=shot)])
    assert limited.render is not None
    pictures = limited.render(states)
    blue, green, lime = (0, 0, 255), (0, 128, 0), (50, 205, 50)
    size = pictures[0].shape[0]
    for picture, state in zip(pictures[:2], states[:2], strict=True):
        assert picture.dtype == np.uint8 and picture.shape == (size, size, 3)
        for colour, units in ((blue, slice(0, 3)), (green, slice(3, 6))):
            row, column = pixels(picture, *colour).mean(0) / size * 32
            np.testing.assert_allclose([column, 32 - row], state.state.unit_positions[units].mean(0), atol=0.3)
    assert len(pixels(pictures[2], *blue)) == 0 < len(pixels(pictures[2], *green))
    assert len(pixels(pictures[3], *lime)) > 10 and len(pixels(pictures[1], *lime)) == 0  # the enemy that was hit
    bullet = pixels(pictures[3], 128, 128, 128).mean(0) / size * 32
    np.testing.assert_allclose([bullet[1], 32 - bullet[0]], [11.75, 16.25], atol=0.1)  # half-way, 0.5 wide
