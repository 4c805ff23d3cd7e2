"""The replay ring: order and wrap-around, compact storage and what comes back from it, and its size in bytes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.engine import replay
from meigm_jax.engine.rollout import collect
from meigm_jax.envs.training import for_training
from tests.engine.small import COUNTING, ENV, HYPER, SPEC

ENVS, LENGTH, CAPACITY = 2, 9, 6


@pytest.fixture(scope="module")
def chunks():
    learner = COUNTING.init(jax.random.key(0), HYPER)
    run = jax.jit(partial(collect, ENV, COUNTING, num_envs=ENVS, length=LENGTH, keep=jax.vmap(ENV.compact)))
    return [run(learner, jax.random.key(i), jnp.int32(0)) for i in range(4)]


def filled_ring(chunks, dtype=jnp.float32):
    ring = replay.init(ENV, CAPACITY, LENGTH, dtype)
    write = jax.jit(replay.write)
    for i, chunk in enumerate(chunks):
        ring = write(ring, chunk, jnp.int32(i * ENVS % CAPACITY))
    return ring


def test_the_ring_overwrites_its_oldest_sequences(chunks):
    ring = filled_ring(chunks)
    for slot, chunk in ((0, chunks[3]), (2, chunks[1]), (4, chunks[2])):
        for e in range(ENVS):
            np.testing.assert_array_equal(ring.reward[slot + e], chunk.trajectory.reward[:, e])
            np.testing.assert_array_equal(ring.seen.obs[slot + e], chunk.trajectory.at.obs[:, e])
            np.testing.assert_array_equal(ring.action[slot + e], chunk.trajectory.action[:, e])


def draw(ring, key, filled, batch_size, **options):
    """A batch as it is learnt from."""
    return replay.expand(ENV, replay.sample(ring, key, filled, batch_size, **options))


def origin(batch, chunks, b):
    """The sequence that batch column b was written from, found by the tag of its first episode."""
    found = [
        jax.tree.map(lambda x, e=e: x[:, e], chunk.trajectory)
        for chunk in chunks
        for e in range(ENVS)
        if abs(chunk.trajectory.at.state[0, e, 3] - batch.at.state[0, b, 3]) < 1e-2 and np.array_equal(
            chunk.trajectory.reward[:, e], batch.reward[:, b])
    ]  # fmt: skip
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, None])
def test_what_is_sampled_is_what_was_collected_last_actions_included(chunks, dtype):
    ring = filled_ring(chunks, dtype)
    batch = jax.jit(draw, static_argnums=3)(ring, jax.random.key(5), jnp.int32(CAPACITY), 16)
    stored = {x.dtype for x in jax.tree.leaves(ring.seen)}
    assert stored == {jnp.dtype(name) for name in ([dtype] if dtype else ["int32", "float32", "bool"])}
    assert ring.action.dtype == jnp.int8
    dtype = dtype or jnp.float32  # what is recomputed loses nothing
    for b in range(16):
        sequence = jax.tree.map(lambda x, b=b: x[:, b], batch)
        kept = origin(batch, chunks, b)
        rounded = kept.at._replace(
            obs=kept.at.obs.astype(dtype).astype(jnp.float32), state=kept.at.state.astype(dtype).astype(jnp.float32)
        )
        jax.tree.map(np.testing.assert_array_equal, sequence, kept._replace(at=rounded))
        assert jax.tree.map(lambda x: x.dtype, sequence) == jax.tree.map(lambda x: x.dtype, kept)


def test_only_filled_slots_are_sampled_and_all_of_them(chunks):
    ring = replay.write(replay.init(ENV, CAPACITY, LENGTH, jnp.float32), chunks[0], jnp.int32(0))
    batch = draw(ring, jax.random.key(0), jnp.int32(ENVS), 32)
    assert batch.at.first[0].all()  # an empty slot has no first row
    assert set(np.asarray(batch.at.state[0, :, 3])) == set(np.asarray(chunks[0].trajectory.at.state[0, :, 3]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, None])
@pytest.mark.parametrize("num_actions", [4, 200])
def test_nbytes_is_what_the_replay_takes(dtype, num_actions):
    env = ENV._replace(spec=SPEC._replace(num_actions=num_actions))
    ring = replay.init(env, CAPACITY, LENGTH, dtype)
    assert replay.nbytes(env, CAPACITY, LENGTH, dtype) == sum(x.nbytes for x in jax.tree.leaves(ring))
    assert jnp.iinfo(ring.action.dtype).max >= num_actions - 1


def test_a_transition_takes_few_bytes():
    """Per row: 6 + 4 numbers of 2 bytes, 8 bits of availability, 4 flags; per transition two actions and a reward."""
    rows, transitions = (2 * (2 * 3 + 4) + 1 + 1) * (LENGTH + 1), (2 + 4) * LENGTH
    assert replay.nbytes(ENV, CAPACITY, LENGTH, jnp.float16) == CAPACITY * (rows + transitions)


def test_return_weighted_sampling_draws_each_sequence_in_proportion_to_its_exponentiated_return():
    ring = replay.init(ENV, 4, 2, jnp.float32)
    reward = jnp.array([[1.0, 1.0], [0.5, 99.0], [3.0, 0.0], [50.0, 50.0]])
    valid = jnp.array([[True, True], [True, False], [True, False], [True, True]])  # 99 is not a transition
    flags = jnp.pad(valid, ((0, 0), (0, 1))).astype(jnp.uint8) << 4  # the fourth bit of each byte
    seen = ring.seen._replace(state=ring.seen.state.at[:, 0, 0].set(jnp.arange(4.0)))
    ring = ring._replace(reward=reward, flags=flags, seen=seen)
    draws = 20_000
    batch = draw(ring, jax.random.key(0), jnp.int32(3), draws, return_weight=0.5)  # the fourth is not filled
    drawn = np.bincount(np.asarray(batch.at.state[0, :, 0]).astype(int), minlength=4) / draws
    weights = np.exp([0.5 * 2.0, 0.5 * 0.5, 0.5 * 3.0, -np.inf])
    expected = weights / weights.sum()
    np.testing.assert_array_less(np.abs(drawn - expected), 4 * np.sqrt(expected * (1 - expected) / draws) + 1e-12)


def test_what_is_recomputed_is_normalised_as_what_is_seen():
    bare = ENV._replace(normalise=lambda at: at._replace(obs=2 * at.obs, state=at.state + 1))
    env = for_training(bare, reward_scale=1.0)
    assert env.compact is not None and env.expand is not None
    env_state, at = env.reset(jax.random.key(0))
    obs, state = env.expand(env.compact(env_state))
    np.testing.assert_array_equal(obs, at.obs)
    np.testing.assert_array_equal(state, at.state)
    np.testing.assert_array_equal(at.obs, 2 * ENV.reset(jax.random.key(0))[1].obs)
