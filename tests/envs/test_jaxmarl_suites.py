"""Overcooked, simple_spread and environments by id behind our interface, against raw JaxMARL over whole episodes."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax import envs
from meigm_jax.config import build
from meigm_jax.envs.quiet import quiet
from meigm_jax.envs.training import for_training
from meigm_jax.registry import ConfigError
from meigm_jax.train import parse, plan
from meigm_jax.types import Env

with quiet(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jaxmarl
    from jaxmarl.environments.overcooked import overcooked_layouts

EPISODES = 16


def play(env: Env, raw: Any, key: jax.Array, steps: int) -> tuple[Any, Any]:
    """Both from the same keys with the same random actions: the start and `steps` steps, ours and JaxMARL's."""
    env_state, start = env.reset(key)
    obs, raw_state = raw.reset(key)

    def advance(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        env_state, avail, raw_state = carry
        k_act, k_step = jax.random.split(key)
        action = jax.random.categorical(k_act, jnp.where(avail, 0.0, -jnp.inf))
        env_state, at, reward, terminated, truncated, info = env.step(k_step, env_state, action)
        obs, raw_state, rewards, dones, raw_info = raw.step_env(
            k_step, raw_state, dict(zip(raw.agents, action, strict=True))
        )
        ours = (at, reward, terminated, truncated, info)
        return (env_state, at.avail, raw_state), (ours, (obs, rewards, dones["__all__"], raw_info))

    _, (ours, theirs) = jax.lax.scan(advance, (env_state, start.avail, raw_state), jax.random.split(key, steps))
    return (start, *ours), (obs, *theirs)


def compare(env: Env, raw: Any, steps: int) -> tuple[Any, Any]:
    """`play` for several episodes, as NumPy; leaves [EPISODES, steps, ...]."""
    keys = jax.random.split(jax.random.key(0), EPISODES)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: play(env, raw, key, steps)))(keys))


def stacked(raw: Any, obs: Any) -> np.ndarray:
    """[..., N, O]: JaxMARL's observations, flattened."""
    lead = 1 if obs[raw.agents[0]].ndim == len(raw.observation_space(raw.agents[0]).shape) + 1 else 2
    return np.stack([obs[agent].reshape(*obs[agent].shape[:lead], -1) for agent in raw.agents], axis=-2)


@pytest.mark.parametrize("layout", ["cramped_room", "asymm_advantages"])
def test_overcooked_is_jaxmarls(layout: str) -> None:
    env = envs.make(f"overcooked_{layout}", max_steps=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = jaxmarl.make("overcooked", layout=overcooked_layouts[layout], max_steps=400)
    (start, at, reward, terminated, truncated, info), (obs, next_obs, rewards, done, raw_info) = compare(env, raw, 400)
    np.testing.assert_array_equal(start.obs, stacked(raw, obs))
    np.testing.assert_array_equal(at.obs, stacked(raw, next_obs))
    np.testing.assert_array_equal(at.state, at.obs[:, :, 0])
    np.testing.assert_array_equal(reward, rewards["agent_0"])
    np.testing.assert_array_equal(info["shaped_reward"], sum(raw_info["shaped_reward"].values()))
    assert info["shaped_reward"].any() or layout != "cramped_room"  # chance seldom finds a pot elsewhere
    np.testing.assert_array_equal(truncated, done)
    assert truncated[:, -1].all() and not truncated[:, :-1].any() and not terminated.any()
    assert start.avail.all() and start.first.all() and not at.first.any()


def test_what_overcooked_leaves_out_never_changes() -> None:
    name = "overcooked_forced_coord"
    env, compact, image = envs.make(name), for_training(envs.make(name), 1.0), envs.make(name, compact=False)
    assert image.training_spec is None and compact.spec.obs_dim < env.spec.obs_dim // 3

    def walk(key: jax.Array) -> tuple[Any, Any]:
        def advance(env_state: Any, key: jax.Array) -> tuple[Any, Any]:
            env_state, at, *_ = env.step(key, env_state, jax.random.randint(key, (2,), 0, 6))
            return env_state, (env.normalise(at), image.normalise(at))

        return jax.lax.scan(advance, env.reset(key)[0], jax.random.split(key, 400))[1]

    keys = jax.random.split(jax.random.key(1), 32)
    small, whole = jax.tree.map(np.asarray, jax.jit(jax.vmap(walk))(keys))
    assert small.obs.shape[-1] == compact.spec.obs_dim and small.state.shape[-1] == compact.spec.state_dim
    assert whole.obs.min() >= 0 and whole.obs.max() <= 1

    def different(rows: np.ndarray) -> int:
        return len(np.unique(rows.reshape(-1, rows.shape[-1]), axis=0))

    assert different(small.obs) == different(whole.obs) > 1000  # nothing that tells situations apart is lost


def test_simple_spread_is_jaxmarls_with_the_sum_of_rewards() -> None:
    env, raw = envs.make("mpe_simple_spread"), jaxmarl.make("MPE_simple_spread_v3")
    steps = env.spec.episode_limit
    (start, at, reward, terminated, truncated, _), (obs, next_obs, rewards, done, _) = compare(env, raw, steps)
    np.testing.assert_allclose(start.obs, stacked(raw, obs), atol=1e-5)
    np.testing.assert_allclose(at.obs, stacked(raw, next_obs), atol=1e-5)
    np.testing.assert_allclose(at.state, at.obs.reshape(*at.obs.shape[:2], -1), atol=0)
    assert env.spec.unit_dim == env.spec.obs_dim  # an agent's own part of the state is what it observes
    np.testing.assert_allclose(reward, sum(rewards.values()), rtol=1e-5)
    np.testing.assert_array_equal(truncated, done)
    assert truncated[:, -1].all() and not truncated[:, :-1].any() and not terminated.any()


def test_agents_that_differ_are_padded() -> None:
    """simple_speaker_listener: 3 and 5 actions, observations of 3 and 11 numbers."""
    env, raw = envs.make("jaxmarl_MPE_simple_speaker_listener_v4"), jaxmarl.make("MPE_simple_speaker_listener_v4")
    (start, at, reward, *_), (_, obs, rewards, _, _) = compare(env, raw, 5)
    speaker, listener = raw.agents
    sizes = [raw.action_space(agent).n for agent in raw.agents]
    assert (env.spec.num_actions, env.spec.obs_dim) == (max(sizes), at.obs.shape[-1])
    np.testing.assert_array_equal(start.avail[0].sum(axis=-1), sizes)
    np.testing.assert_allclose(at.obs[:, :, 0, : obs[speaker].shape[-1]], obs[speaker], atol=1e-5)
    np.testing.assert_array_equal(at.obs[:, :, 0, obs[speaker].shape[-1] :], 0)
    np.testing.assert_allclose(at.obs[:, :, 1], obs[listener], atol=1e-5)
    np.testing.assert_allclose(at.state, np.concatenate([obs[a] for a in raw.agents], axis=-1), atol=1e-5)
    np.testing.assert_allclose(reward, sum(rewards.values()), rtol=1e-5)


def test_an_episode_that_ends_by_itself_is_terminated_and_at_the_limit_truncated() -> None:
    """switch_riddle ends when an agent tells; its own limit is 4 N - 6 = 6 steps for 3 agents."""
    env = envs.make("jaxmarl_switch_riddle")
    raw = jaxmarl.make("switch_riddle")
    (_, _, _, terminated, truncated, _), (_, _, _, done, _) = compare(env, raw, raw.max_steps)
    first = done.argmax(axis=1)  # of each episode
    for episode, end in enumerate(first):
        assert done[episode, end]
        assert truncated[episode, end] == (end + 1 >= raw.max_steps)
        assert terminated[episode, end] == (end + 1 < raw.max_steps)
    assert (first + 1 < raw.max_steps).any()
    cut = envs.make("jaxmarl_switch_riddle", time_limit=2)
    (_, _, _, terminated, truncated, _), (_, _, _, done, _) = compare(cut, raw, 2)
    assert cut.spec.episode_limit == 2 and not truncated[:, 0].any()
    np.testing.assert_array_equal(terminated[:, 1], done[:, 1])
    np.testing.assert_array_equal(truncated[:, 1], ~done[:, 1])
    assert envs.make("jaxmarl_switch_riddle", time_limit=50).spec == env.spec  # later than its own: no difference
    same = envs.make("jaxmarl_switch_riddle", time_limit=raw.max_steps)
    assert same.spec.episode_limit == raw.max_steps == env.spec.episode_limit - 1


def test_an_episode_of_several_games_ends_with_the_last() -> None:
    steps = {"num_inner_steps": 3, "num_outer_steps": 2}
    env, raw = envs.make("jaxmarl_coin_game", **steps), jaxmarl.make("coin_game", **steps)
    (_, at, _, terminated, truncated, _), (_, obs, _, done, _) = compare(env, raw, 6)
    np.testing.assert_array_equal(truncated, done)
    assert done[:, 5].all() and not done[:, :5].any() and not terminated.any()
    np.testing.assert_array_equal(at.obs, stacked(raw, obs))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jaxmarl", {}, "env.id: .* needs the id"),
        ("jaxmarl_overcookd", {}, "env.id: JaxMARL has no environment 'overcookd'; did you mean overcooked"),
        ("jaxmarl_MPE_simple_spread_v3", {"action_type": "Continuous"}, "continuous actions"),
        ("jaxmarl_hanabi", {}, "env.options.time_limit: .* has no time limit"),
        ("jaxmarl_overcooked", {"layout": "kitchen"}, "env.options: JaxMARL cannot make overcooked with"),
        ("jaxmarl_overcooked", {"layuot": 3}, "unknown key 'env.options.layuot'; did you mean layout"),
        ("jaxmarl_MPE_simple_spread_v3", {"num_agentss": 3}, "env.options.num_agentss'; did you mean num_agents"),
        ("jaxmarl_HeuristicEnemySMAX", {"num_ally": 3}, "env.options.num_ally'; did you mean num_allies"),
        ("jaxmarl_ant_4x2", {}, "env.id: JaxMARL cannot make ant_4x2 here"),
        ("jaxmarl_storm", {}, "env.id: jaxmarl_storm does not give each agent one array to observe"),
        ("jaxmarl_storm_2p", {}, "env.id: jaxmarl_storm_2p does not give each agent one array to observe"),
        ("jaxmarl_storm_np", {}, "env.id: jaxmarl_storm_np does not give each agent one array to observe"),
        ("jaxmarl_switch_riddle", {"time_limit": 0}, "env.options.time_limit: expected an integer of at least 1"),
        ("jaxmarl_switch_riddle", {"team_reward": "max"}, "env.options.team_reward: expected one of sum, mean"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        envs.make(name, **options)


def test_the_id_becomes_part_of_the_name() -> None:
    [job] = plan(parse(["+env=jaxmarl", "env.id=switch_riddle", "env.options.num_agents=4"]))
    assert job.config.env.name == "jaxmarl_switch_riddle"
    assert job.config.env.options == {"time_limit": None, "team_reward": "sum", "num_agents": 4}
    from meigm_jax.config import to_dict

    assert build(to_dict(job.config)) == job.config
    with pytest.raises(ConfigError, match=r"env.id: only \+env=jaxmarl takes an id"):
        plan(parse(["+env=smax_3m", "env.id=switch_riddle"]))


@pytest.mark.parametrize("name", ["overcooked_cramped_room", "mpe_simple_spread"])
def test_pictures_show_what_changes(name: str) -> None:
    env = envs.make(name)
    step = jax.jit(env.step)
    first, _ = jax.jit(env.reset)(jax.random.key(0))
    nothing = {"overcooked_cramped_room": 4, "mpe_simple_spread": 0}[name]
    stay, *_ = step(jax.random.key(1), first, jnp.full(env.spec.num_agents, nothing))
    gone, *_ = step(jax.random.key(1), stay, jnp.full(env.spec.num_agents, 3))
    for _ in range(3):
        gone, *_ = step(jax.random.key(1), gone, jnp.full(env.spec.num_agents, 3))
    assert env.render is not None
    pictures = env.render([jax.device_get(state) for state in (first, stay, gone)])
    assert all(p.dtype == np.uint8 and p.shape == pictures[0].shape and p.shape[-1] == 3 for p in pictures)
    assert (pictures[1] != pictures[2]).sum() > 100
    if name.startswith("overcooked"):
        assert pictures[0].shape == (4 * 32, 5 * 32, 3)
        np.testing.assert_array_equal(pictures[0], pictures[1])
