"""Agents without memory: shapes, the sequence and the single step agree, and what each of them cannot know."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.modules import AGENTS
from meigm_jax.registry import ConfigError
from meigm_jax.types import EnvSpec, TimeStep

AGENT_COUNT, ACTIONS, SHAPE = 2, 3, (4, 5, 6)
SPEC = EnvSpec("test", AGENT_COUNT, ACTIONS, obs_dim=120, state_dim=1, episode_limit=4, min_episode_length=4,
               outcomes=(), obs_shape=SHAPE)  # fmt: skip
TIME, BATCH = 3, 2


@pytest.fixture(params=["mlp", "cnn"])
def agent(request):
    return AGENTS[request.param].load()(SPEC, **AGENTS[request.param].defaults())


def steps(seed=0):
    k_obs, k_action = jax.random.split(jax.random.key(seed))
    lead = (TIME, BATCH)
    return TimeStep(
        obs=jax.random.normal(k_obs, (*lead, AGENT_COUNT, SPEC.obs_dim)),
        state=jnp.zeros((*lead, 1)),
        avail=jnp.ones((*lead, AGENT_COUNT, ACTIONS), bool),
        first=jnp.zeros(lead, bool),
        last_action=jax.random.randint(k_action, (*lead, AGENT_COUNT), -1, ACTIONS),
    )


def test_a_sequence_is_its_steps_and_nothing_is_remembered(agent):
    params, at = agent.init(jax.random.key(1)), steps()
    q, features = agent.unroll(params, at)
    assert q.shape == (TIME, BATCH, AGENT_COUNT, ACTIONS) and features.shape == (TIME, BATCH, AGENT_COUNT, 64)
    carry = agent.init_carry(BATCH)
    for t in reversed(range(TIME)):  # in any order
        q_t, features_t, carry = agent.step(params, carry, jax.tree.map(lambda x, t=t: x[t], at))
        np.testing.assert_allclose(q_t, q[t], atol=1e-5)
        np.testing.assert_allclose(features_t, features[t], atol=1e-5)
    assert not jax.tree.leaves(carry)


def test_last_action_and_agent_are_told_apart(agent):
    params, at = agent.init(jax.random.key(1)), steps()
    same = at._replace(obs=jnp.ones_like(at.obs), last_action=jnp.zeros_like(at.last_action))
    q = agent.unroll(params, same)[0]
    np.testing.assert_allclose(q, jnp.broadcast_to(q[0, 0], q.shape), atol=1e-5)
    assert jnp.abs(q[0, 0, 0] - q[0, 0, 1]).max() > 1e-3
    other = agent.unroll(params, same._replace(last_action=same.last_action + 1))[0]
    assert jnp.abs(q - other).max() > 1e-3


def convolved(image, layer):
    """ReLU of a 3 x 3 convolution of [height, width, channels], zeros around it, cell by cell."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((*image.shape[:2], layer["kernel"].shape[-1]))
    for y, x in np.ndindex(*image.shape[:2]):
        out[y, x] = np.einsum("abc,abck->k", padded[y : y + 3, x : x + 3], layer["kernel"]) + layer["bias"]
    return np.maximum(out, 0.0)


def test_a_cnn_is_two_convolutions_of_the_image_and_two_layers():
    agent = AGENTS["cnn"].load()(SPEC, hidden_dim=8, channels=4)
    at = jax.tree.map(lambda x: x[:1, :1], steps())
    tree = agent.init(jax.random.key(0))
    layers = jax.tree.map(np.asarray, tree["params"])
    assert layers["conv_0"]["kernel"].shape == (3, 3, SHAPE[2], 4)
    assert np.abs(layers["conv_0"]["kernel"]).max() <= 1 / np.sqrt(9 * SHAPE[2])
    for number, obs in enumerate(np.asarray(at.obs[0, 0])):
        seen = convolved(convolved(obs.reshape(SHAPE), layers["conv_0"]), layers["conv_1"])
        told = np.concatenate([seen.ravel(), np.eye(ACTIONS + 1)[at.last_action[0, 0, number]][:ACTIONS],
                               np.eye(AGENT_COUNT)[number]])  # fmt: skip
        features = np.maximum(told @ layers["encode"]["kernel"] + layers["encode"]["bias"], 0.0)
        q = features @ layers["head"]["kernel"] + layers["head"]["bias"]
        found_q, found = agent.unroll(tree, at)
        np.testing.assert_allclose(found[0, 0, number], features, atol=1e-5)
        np.testing.assert_allclose(found_q[0, 0, number], q, atol=1e-5)


def test_a_cnn_needs_images():
    with pytest.raises(ConfigError, match=r"algo.agent.name: cnn needs observations of height x width x channels"):
        AGENTS["cnn"].load()(SPEC._replace(obs_shape=()), hidden_dim=8, channels=4)
