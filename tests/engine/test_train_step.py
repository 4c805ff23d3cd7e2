"""The training iteration: warm-up, target copies, counters, and what members and compilations share."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meigm_jax.engine import train_step
from meigm_jax.runs.trainer import make_sizes, make_trainer, member_hypers, member_seeds
from meigm_jax.train import configure
from tests.engine import small
from tests.engine.small import COUNTING, ENV, HYPER
from tests.runs.fake import small_config

SIZES = small.SIZES._replace(chunk_length=6, warmup_sequences=5)  # three iterations of two sequences

# Batches of a real run's order of size: on the CPU, members then take their gradient steps in turn.
LARGE_BATCH = ("algo=me_qmix", "train.chunk_length=32", "train.batch_size=32", "total_env_steps=1280")


@pytest.fixture(scope="module", params=[False, True], ids=["batched", "in_turn"])
def history(request):
    """State and metrics of two members after each of eight iterations."""
    sizes = SIZES._replace(in_turn=request.param)
    step = jax.jit(jax.vmap(partial(train_step.train_step, ENV, COUNTING, sizes), in_axes=(0, None)))
    hyper = jax.tree.map(lambda x: jnp.stack([x, x]), HYPER)
    state = jax.vmap(partial(train_step.init, ENV, COUNTING, sizes))(jnp.arange(2), hyper)
    states = []
    for i in range(8):
        state, metrics = step(state, jnp.int32(i))
        states.append((state, metrics))
    return states


def test_nothing_is_learnt_before_warm_up(history):
    for state, metrics in history[:2]:
        np.testing.assert_array_equal(state.learner.params, 0)
        assert np.isnan(metrics["params"]).all() and np.isfinite(metrics["return"]).all()
    np.testing.assert_array_equal(history[2][0].learner.params, SIZES.updates_per_chunk)


def test_gradient_steps_and_target_copies_come_exactly_when_due(history):
    for i, (state, metrics) in enumerate(history):
        count = max(i - 1, 0) * SIZES.updates_per_chunk
        assert SIZES.grad_steps(i + 1) == count
        np.testing.assert_array_equal(state.learner.params, count)
        np.testing.assert_array_equal(state.learner.target, count // 3 * 3)
        if count:
            np.testing.assert_allclose(metrics["params"], count - 1.5)  # the mean over the chunk's updates
            np.testing.assert_array_equal(metrics["env_step"], i * 12)  # as acting saw it


def test_the_ring_fills_and_wraps(history):
    filled = [int((state.replay.flags[0] > 0).any(-1).sum()) for state, _ in history]
    assert filled == [2, 4, 6, 8, 8, 8, 8, 8]
    before, after = (np.asarray(history[i][0].replay.seen.state[0]) for i in (3, 4))
    changed = (before != after).any(axis=(1, 2))
    np.testing.assert_array_equal(changed, np.arange(8) < 2)


def test_members_see_different_episodes(history):
    tags = np.asarray(history[0][0].replay.seen.state[:, :2, 0, 3])
    assert len(set(tags.ravel())) == 4


@pytest.fixture(scope="module")
def traces():
    """How often the iteration was traced."""
    return []


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, traces):
    """ME-QMIX on the matrix game, three members, four iterations at most per call."""
    with pytest.MonkeyPatch.context() as patch:
        original = train_step.train_step

        def counted(*args):
            traces.append(1)
            return original(*args)

        patch.setattr(train_step, "train_step", counted)
        config = small_config(tmp_path_factory.mktemp("run"), *LARGE_BATCH, "seeds=3")
        yield config, make_trainer(config, max_iterations=4)


def test_any_number_of_iterations_runs_in_one_compilation(trainer, traces):
    config, made = trainer
    state = made.init(member_seeds(config), member_hypers(config))
    state, metrics = made.run(state, 0, 4)
    once = len(traces)
    for start, count in ((4, 1), (5, 3), (8, 4)):
        state, metrics = made.run(state, start, count)
        assert np.isfinite(metrics["loss_td"][:count]).all() and np.isnan(metrics["loss_td"][count:]).all()
    assert once > 0 and len(traces) == once


def test_chunks_of_iterations_do_not_matter(trainer):
    config, made = trainer

    def run(*counts):
        state, start = made.init(member_seeds(config), member_hypers(config)), 0
        for count in counts:
            state, _ = made.run(state, start, count)
            start += count
        return state.learner

    jax.tree.map(np.testing.assert_array_equal, run(4, 2), run(1, 3, 2))


def test_a_member_alone_does_what_it_does_among_others(trainer, tmp_path):
    config, made = trainer
    together, _ = made.run(made.init(member_seeds(config), member_hypers(config)), 0, 4)
    alone = small_config(tmp_path, *LARGE_BATCH, "seeds=1", f"seed={config.seed + 2}")
    single = make_trainer(alone, max_iterations=4)
    state, _ = single.run(single.init(member_seeds(alone), member_hypers(alone)), 0, 4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2], b[0]), together.learner, state.learner)


def test_evaluation_of_all_members(trainer):
    config, made = trainer
    state = made.init(member_seeds(config), member_hypers(config))
    for policy in ("greedy", "sampled"):
        found = made.evaluate(state.learner, state.key, 10, policy, episodes=5)
        assert found["return"].shape == (3, 5)
        assert set(np.asarray(found["return"]).ravel()) <= {8.0, -12.0, 0.0}


def test_the_engines_sizes_are_those_of_the_configuration():
    names = "num_envs=3 chunk_length=140 updates_per_chunk=5 batch_size=7 target_update_interval=11 warmup_sequences=13"
    config = configure("+env=smax_3m", *(f"train.{name}" for name in names.split()), "replay.capacity=33")
    config = replace(config, replay=replace(config.replay, return_weight=0.25, dtype="bfloat16"))
    sizes = make_sizes(config, recomputed=False)._asdict()
    given = {name: int(value) for name, value in (pair.split("=") for pair in names.split())}
    assert given.items() <= sizes.items()
    assert (sizes["capacity"], sizes["return_weight"], sizes["dtype"]) == (33, 0.25, "bfloat16")
    assert make_sizes(config, recomputed=True).dtype is None


def test_evaluations_at_other_env_steps_play_other_episodes(trainer):
    config, made = trainer
    state = made.init(member_seeds(config), member_hypers(config))
    first, again, later = (
        np.asarray(made.evaluate(state.learner, state.key, env_steps, "sampled", episodes=5)["return"])
        for env_steps in (32, 32, 64)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != later)
