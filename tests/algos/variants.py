"""Value decomposition in its variants, on a small random batch that holds several episodes and dead agents."""

import jax
import jax.numpy as jnp
import numpy as np

from meigm_jax.algos import me_igm, value_decomposition
from meigm_jax.mixers import qmix, vdn
from meigm_jax.modules import agent, opt, temperature
from meigm_jax.types import Algorithm, EnvSpec, Hyper, TimeStep, Trajectory

AGENTS, ACTIONS, OBS, STATE = 3, 4, 5, 6
ROWS, SEQUENCES = 9, 4
SPEC = EnvSpec("test", AGENTS, ACTIONS, OBS, STATE, episode_limit=5, min_episode_length=1, outcomes=())
HYPER = Hyper(**dict.fromkeys(Hyper._fields, 1e-2))._replace(  # all learning rates, from start to end
    max_grad_norm=10.0,
    gamma=0.9,
    td_lambda=0.4,
    epsilon_start=1.0,
    epsilon_end=0.1,
    epsilon_decay_steps=100.0,
    alpha_start=0.1,
    alpha_end=0.01,
    alpha_decay_steps=100.0,
    alpha_min=1e-3,
    alpha_max=1.0,
    target_entropy=0.3,
)
HYPER = jax.tree.map(jnp.float32, HYPER)
MIXERS = {"vdn": vdn.make(SPEC), "qmix": qmix.make(SPEC, embed_dim=4, hypernet_dim=8, value_dim=8, mask_dead=False)}
OPTS = {
    "affine": opt.make_affine(SPEC, 8, mask_dead=True),
    "identity": opt.make_identity(SPEC),
    "mlp": opt.make_mlp(SPEC, 8, 4, mask_dead=True),
}
GRU = agent.make_gru(SPEC, hidden_dim=8)
SOFT = {  # variant of ME-IGM -> mixer, OPT
    "me_vdn": ("vdn", "affine"),
    "me_qmix": ("qmix", "affine"),
    "entropy": ("qmix", "identity"),
    "mlp": ("qmix", "mlp"),
}


def soft_parts(variant: str, bootstrap_on_timeout: bool = False, sampled_entropy: bool = False) -> me_igm.Parts:
    mixer, transform = SOFT[variant]
    learned = temperature.make_learned(SPEC, "alive")
    return me_igm.Parts(GRU, MIXERS[mixer], OPTS[transform], learned, sampled_entropy, bootstrap_on_timeout)


def make_algorithm(variant: str) -> Algorithm:
    """A variant of ME-IGM, or plain value decomposition with the mixer of that name."""
    if variant in MIXERS:
        return value_decomposition.make(SPEC, GRU, MIXERS[variant], False)
    return me_igm.algorithm(soft_parts(variant))


def random_batch(seed: int = 0, reward_scale: float = 1.0) -> Trajectory:
    """Per sequence two episodes; the second is truncated in sequence 0, and sequence 3 ends in padding."""
    rng = np.random.default_rng(seed)
    first, valid = np.zeros((ROWS + 1, SEQUENCES), bool), np.ones((ROWS, SEQUENCES), bool)
    terminated, truncated = np.zeros_like(valid), np.zeros_like(valid)
    first[0] = first[4] = True
    valid[3] = valid[8] = False  # the episodes' last time steps
    terminated[2], terminated[7, 1:], truncated[7, 0] = True, True, True
    valid[7:, 3] = terminated[7:, 3] = False  # padding after an episode of 3 in sequence 3
    terminated[6, 3] = True
    avail = rng.random((ROWS + 1, SEQUENCES, AGENTS, ACTIONS)) < 0.6
    avail[..., 1] = True
    avail[5:8, 1, 2] = np.arange(ACTIONS) == 1  # a dead agent
    draws = np.where(avail, rng.random(avail.shape), -1.0)
    action = draws.argmax(-1)[:-1]
    before = np.concatenate([np.full_like(action[:1], -1), action])
    at = TimeStep(
        obs=rng.normal(size=(ROWS + 1, SEQUENCES, AGENTS, OBS)).astype(np.float32),
        state=rng.normal(size=(ROWS + 1, SEQUENCES, STATE)).astype(np.float32),
        avail=avail,
        first=first,
        last_action=np.where(first[..., None], -1, before),
    )
    reward = reward_scale * rng.normal(size=valid.shape).astype(np.float32)
    batch = Trajectory(at, action, reward.astype(np.float32), terminated, truncated, valid)
    return jax.tree.map(jnp.asarray, batch)
