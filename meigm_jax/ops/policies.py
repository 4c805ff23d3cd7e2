"""Masked policies: the only place where unavailable actions are ruled out."""

from __future__ import annotations

import chex
import distrax
import jax
import jax.numpy as jnp

from meigm_jax.types import Array

UNAVAILABLE = -1e9  # finite: -inf would give 0 * inf = NaN in entropies and in gradients through `where`


def mask(logits: Array, avail: Array) -> Array:
    """Logits [..., A] with unavailable actions (avail bool[..., A] False) far below all others."""
    chex.assert_equal_shape([logits, avail])
    return jnp.where(avail, logits, UNAVAILABLE)


def has_choice(avail: Array) -> Array:
    """bool[..., N]: more than one action is available; False for dead agents and padding. avail: bool[..., N, A]."""
    return jnp.sum(avail, axis=-1) > 1


def boltzmann(logits: Array, avail: Array) -> distrax.Categorical:
    """softmax over the available actions of logits [..., A] (uniform over all where none is available)."""
    return distrax.Categorical(logits=mask(logits, avail))


def greedy(q: Array, avail: Array) -> Array:
    """i32[...]: the available action of largest q [..., A]; the lowest index on ties."""
    return jnp.argmax(mask(q, avail), axis=-1)


def mode(logits: Array, q: Array, avail: Array) -> Array:
    """i32[...]: the most probable action of softmax(logits [..., A]); where logits tie in floating point, q decides."""
    masked = mask(logits, avail)
    top = masked == jnp.max(masked, axis=-1, keepdims=True)
    return greedy(q, avail & top)


def epsilon_greedy(q: Array, avail: Array, epsilon: Array) -> distrax.Categorical:
    """(1 - epsilon) greedy + epsilon uniform over the available actions. q [..., A], epsilon f32[] in [0, 1]."""
    best = jax.nn.one_hot(greedy(q, avail), q.shape[-1])
    uniform = avail / jnp.maximum(jnp.sum(avail, axis=-1, keepdims=True), 1)
    return distrax.Categorical(probs=(1.0 - epsilon) * best + epsilon * uniform)


def sample(policy: distrax.Categorical, avail: Array, noise: Array) -> Array:
    """i32[...]: an action of each masked policy [..., A] by inverting its distribution function.

    noise: a key, or numbers f32[...] that are uniform in [0, 1). Gumbel's trick would need one per action.
    """
    below = jnp.where(avail, jnp.cumsum(policy.probs, axis=-1), 0.0)
    largest = jnp.max(below, axis=-1)
    if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        noise = jax.random.uniform(noise, largest.shape, below.dtype)
    level = largest * noise  # smaller than the largest: one is above it
    return jnp.argmax(below > level[..., None], axis=-1)


def linear_schedule(start: Array, end: Array, decay_steps: Array, step: Array) -> Array:
    """f32[]: from start to end over decay_steps, then end. All arguments may be traced (optax's schedules may not)."""
    return start + (end - start) * jnp.clip(step / decay_steps, 0.0, 1.0)


def take(q: Array, action: Array) -> Array:
    """q [..., A] at action i32[...] -> [...]."""
    return jnp.take_along_axis(q, action[..., None], axis=-1).squeeze(-1)
