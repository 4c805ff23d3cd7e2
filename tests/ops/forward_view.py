"""Soft TD(lambda) by its definition, in numpy: the lambda-weighted mixture of k-step returns of one episode."""

import numpy as np


def k_step_return(reward, value, bonus, terminated, gamma, t, k):
    """Rewards of k steps, entropy bonuses of the k rows after t, and the value of row t + k.

    reward [ell]; value and bonus [ell + 1]. The state after a terminal transition is worth nothing.
    """
    length = len(reward)
    total = sum(gamma**j * reward[t + j] for j in range(k))
    for j in range(1, k + 1):
        if not (terminated and t + j == length):
            total += gamma**j * bonus[t + j]
    if not (terminated and t + k == length):
        total += gamma**k * value[t + k]
    return total


def lambda_mixture(reward, value, bonus, terminated, gamma, td_lambda):
    """Targets [ell] of one episode: (1 - lambda) sum_k lambda^(k-1) G^(k), the longest return taking the rest."""
    length = len(reward)
    targets = np.zeros(length)
    for t in range(length):
        longest = length - t
        for k in range(1, longest + 1):
            weight = td_lambda ** (k - 1) * (1.0 if k == longest else 1.0 - td_lambda)
            targets[t] += weight * k_step_return(reward, value, bonus, terminated, gamma, t, k)
    return targets
