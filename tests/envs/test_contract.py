"""What every environment keeps to."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from meigm_jax import envs

ALL = [f"smax_{name}" for name in envs.SMAX_MAPS]  # every map; of the other suites the first and the last
SOME = {name for names in envs.SUITES for name in (names[0], names[-1])} - {envs.BY_ID}
NAMES = [*dict.fromkeys([*ALL, *sorted(SOME), "smax_terran_10v11", f"{envs.BY_ID}_switch_riddle"])]


def signature(leaf: Any) -> tuple[Any, ...]:
    """Of an array in a scan's carry: it must not change."""
    return leaf.shape, leaf.dtype, leaf.weak_type


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_has_the_shapes_of_its_spec(name: str) -> None:
    env = envs.make(name)
    spec = env.spec
    env_state, start = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((spec.num_agents,), jnp.int32)
    env_state_after, after, reward, terminated, truncated, info = jax.eval_shape(
        env.step, jax.random.key(0), env_state, action
    )
    shapes = {
        "obs": ((spec.num_agents, spec.obs_dim), jnp.float32),
        "state": ((spec.state_dim,), jnp.float32),
        "avail": ((spec.num_agents, spec.num_actions), jnp.bool_),
        "first": ((), jnp.bool_),
        "last_action": ((spec.num_agents,), jnp.int32),
    }
    seen = env.training_spec or spec
    trained = shapes | {
        "obs": ((seen.num_agents, seen.obs_dim), jnp.float32),
        "state": ((seen.state_dim,), jnp.float32),
    }
    for time_step, right in ((start, shapes), (after, shapes), (jax.eval_shape(env.normalise, after), trained)):
        assert {key: (leaf.shape, leaf.dtype) for key, leaf in time_step._asdict().items()} == right
    assert jax.tree.map(signature, env_state) == jax.tree.map(signature, env_state_after)
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (jnp.float32, jnp.bool_, jnp.bool_)
    assert set(info) - {"shaped_reward"} == set(spec.outcomes) and ("shaped_reward" in info) == spec.shaped
    assert spec.win or name.startswith(envs.BY_ID)
