"""The recurrent agent: its hand-written gradient, clearing of the memory, and unrolling against single steps."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.modules import agent, gru, gru_kernel
from meigm_jax.modules.layers import dense
from meigm_jax.types import EnvSpec, TimeStep

ROWS, BATCH, HIDDEN = 7, 2, 5
SPEC = EnvSpec("test", num_agents=2, num_actions=3, obs_dim=4, state_dim=1, episode_limit=1, min_episode_length=1,
               outcomes=())  # fmt: skip


def plain_unroll(recurrent, x, keep):
    """The same recurrence, differentiated by jax."""

    def step(h, row):
        x_t, keep_t = row
        h, _ = gru.cell(recurrent, x_t, h * keep_t)
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x.r[0]), (x, keep))[1]


def test_the_hand_written_gradient_is_that_of_a_plain_scan_with_resets():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 8)
        kernel = gru.Gates(*(jax.random.normal(k, (HIDDEN, HIDDEN)) for k in keys[:3]))
        recurrent = gru.Recurrent(kernel, jax.random.normal(keys[3], (HIDDEN,)))
        x = gru.Gates(*(jax.random.normal(k, (ROWS, BATCH, HIDDEN)) for k in keys[4:7]))
        keep = jnp.ones((ROWS, BATCH, 1)).at[0].set(0).at[3, 0].set(0).at[5, 1].set(0)
        weight = jax.random.normal(keys[7], (ROWS, BATCH, HIDDEN))  # so that every hidden state counts differently

        def scalar(unroll, recurrent, x):
            return jnp.sum(weight * jnp.sin(unroll(recurrent, x, keep)))

        ours, theirs = (
            jax.value_and_grad(scalar, (1, 2))(unroll, recurrent, x) for unroll in (gru.unroll, plain_unroll)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)


def test_the_kernels_for_a_gpu_give_what_the_scan_gives_for_every_member(monkeypatch):
    """Interpreted; 20 sequences are more than one program walks, and not a multiple of it."""
    members, rows, sequences, hidden = 2, 5, 20, 16
    keys = jax.random.split(jax.random.key(0), 9)
    kernel = gru.Gates(*(0.3 * jax.random.normal(k, (members, hidden, hidden)) for k in keys[:3]))
    recurrent = gru.Recurrent(kernel, jax.random.normal(keys[3], (members, hidden)))
    x = gru.Gates(*(jax.random.normal(k, (members, rows, sequences, hidden)) for k in keys[4:7]))
    keep = jax.random.bernoulli(keys[7], 0.7, (members, rows, sequences, 1)).astype(jnp.float32)
    weight = jax.random.normal(keys[8], (rows, sequences, hidden))

    def scalar(recurrent, x, keep):
        return jnp.sum(weight * jnp.sin(gru.unroll(recurrent, x, keep)))

    def found():
        return jax.jit(jax.vmap(jax.value_and_grad(scalar, (0, 1))))(recurrent, x, keep)

    by_scan = found()
    monkeypatch.setattr(gru, "_kernels_for", lambda x: gru_kernel)
    calls = []
    for name in ("forward", "backward"):
        original = getattr(gru_kernel, name)
        monkeypatch.setattr(gru_kernel, name, lambda *a, f=original: calls.append(f) or f(*a))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found(), by_scan)
    assert len(calls) == 2


@pytest.mark.parametrize(("capability", "able"), [("9.0", True), ("8.0", True), ("7.5", False), ("gfx90a", False)])
def test_kernels_are_for_gpus_and_widths_that_they_are_made_for(monkeypatch, capability, able):
    x = jnp.zeros((1, 1, 64))
    assert gru._kernels_for(x) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert gru._kernels_for(x) is None  # a device that does not tell
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert gru._kernels_for(x) is (gru_kernel if able else None)
    assert gru._kernels_for(jnp.zeros((1, 1, 128))) is None and gru._kernels_for(x.astype(jnp.float16)) is None


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 4)])
def test_a_product_has_the_gradient_of_a_plain_one(sizes):
    with jax.enable_x64(True):
        k_x, k_kernel = jax.random.split(jax.random.key(3))
        x, kernel = jax.random.normal(k_x, (ROWS, BATCH, sizes[0])), jax.random.normal(k_kernel, sizes)
        ours, theirs = (
            jax.value_and_grad(lambda x, kernel, f=f: jnp.sum(jnp.sin(f(x, kernel))), (0, 1))(x, kernel)
            for f in (dense, jnp.matmul)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, theirs)


@pytest.fixture(scope="module")
def recurrent_agent():
    made = agent.make_gru(SPEC, HIDDEN)
    return made, made.init(jax.random.key(1)), jax.jit(made.unroll), jax.jit(made.step)


def time_steps(first_rows):
    """Random rows [T, B]; `first_rows` start an episode in every sequence."""
    k_obs, k_action = jax.random.split(jax.random.key(2))
    first = jnp.zeros((ROWS, BATCH), bool).at[jnp.asarray(first_rows)].set(True)
    last_action = jax.random.randint(k_action, (ROWS, BATCH, SPEC.num_agents), 0, SPEC.num_actions)
    return TimeStep(
        obs=jax.random.normal(k_obs, (ROWS, BATCH, SPEC.num_agents, SPEC.obs_dim)),
        state=jnp.zeros((ROWS, BATCH, 1)),
        avail=jnp.ones((ROWS, BATCH, SPEC.num_agents, SPEC.num_actions), bool),
        first=first,
        last_action=jnp.where(first[..., None], -1, last_action),
    )


def test_unrolling_equals_single_steps_that_clear_the_memory_where_an_episode_starts(recurrent_agent):
    made, params, unroll, step = recurrent_agent
    at = time_steps([0, 3])
    q, features = unroll(params, at)
    carry = 100.0 + made.init_carry(BATCH)  # what an episode before would have left
    for t in range(ROWS):
        q_t, features_t, carry = step(params, carry, jax.tree.map(lambda x, t=t: x[t], at))
        np.testing.assert_allclose(q_t, q[t], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(features_t, features[t], rtol=1e-5, atol=1e-6)


def test_two_episodes_in_one_sequence_are_two_sequences(recurrent_agent):
    made, params, unroll, _ = recurrent_agent
    both = time_steps([0, 3])
    q, _ = unroll(params, both)
    second, _ = made.unroll(params, jax.tree.map(lambda x: x[3:], both))
    np.testing.assert_allclose(q[3:], second, rtol=1e-5, atol=1e-6)
    changed = both._replace(obs=both.obs.at[:3].add(5.0))
    np.testing.assert_array_equal(unroll(params, changed)[0][3:], q[3:])
    assert jnp.any(unroll(params, time_steps([0]))[0][3] != q[3])


def test_inputs_are_observation_last_action_and_agent_id(recurrent_agent):
    _, params, unroll, _ = recurrent_agent
    at = time_steps([0])
    same_obs = at._replace(obs=jnp.ones_like(at.obs), last_action=jnp.full_like(at.last_action, -1))
    q, _ = unroll(params, same_obs)
    assert jnp.all(jnp.any(q[:, :, 0] != q[:, :, 1], axis=-1))  # only the id differs
    acted, _ = unroll(params, same_obs._replace(last_action=same_obs.last_action.at[2, 0, 0].set(1)))
    changed = jnp.any(acted != q, axis=-1)
    assert changed[2:, 0, 0].all() and not changed[:2].any() and not changed[:, 1].any() and not changed[:, :, 1].any()
