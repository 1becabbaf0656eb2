"""PPO's mathematics: pure functions on tensors, float32 in, float32 out.

B = episodes, R = reply length. Masks are bool and positive: True where a real reply token stands. Every per-token
tensor is (B, R); what stands at masked places never changes a result. Losses are divided by `tokens`, the number of
real tokens of the whole minibatch, so that microbatches add up to the minibatch however it is cut.

Sources: PPO, arXiv 1707.06347; GAE, arXiv 1506.02438; KL estimators k1 and k3, J. Schulman, "Approximating KL
Divergence" (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-12  # a variance below this share of the mean square is float32 rounding of a constant


class PolicyLoss(NamedTuple):
    """`loss` () to step on; `clipped` and `kl` () are sums over real tokens, for the metrics."""

    loss: Tensor
    clipped: Tensor
    kl: Tensor


class ValueLoss(NamedTuple):
    """`loss` () to step on; `clipped` () is the number of real tokens whose value was clipped."""

    loss: Tensor
    clipped: Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Return the sum over real tokens, (); masked places may hold anything, NaN included."""
    _check(x, mask)
    return x.masked_fill(~mask, 0.0).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens, (); 0 where there is none."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with mean 0 and variance 1 over real tokens, 0 elsewhere, (B, R); a constant gives 0 everywhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    varies = variance > _ROUNDING * masked_mean(x**2, mask)
    return ((x - mean) * torch.rsqrt(variance + 1e-8)).masked_fill(~(mask & varies), 0.0)


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return the estimator log pi - log ref per token, (B, R): unbiased, may be negative."""
    return logprobs - reference


def kl_k3(logprobs: Tensor, other: Tensor) -> Tensor:
    """Return the estimator of KL(pi || other), exp(d) - 1 - d with d = log other - log pi, (B, R): never negative."""
    difference = other - logprobs
    return torch.expm1(difference) - difference


def shape_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Return rewards (B, R): -kl_coef * k1 at every real token, plus the score (B,) at the last one.

    The last real token is the stop token where there is one. An episode without tokens is not allowed.
    """
    _check(logprobs, mask)
    assert scores.shape == mask.shape[:1], "one score per episode"
    assert bool(mask.any(dim=1).all()), "every episode has at least one reply token"
    rewards = (-kl_coef * kl_k1(logprobs, reference)).masked_fill(~mask, 0.0)
    last = mask.sum(dim=1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.to(rewards.dtype).unsqueeze(1))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float) -> Tensor:
    """Return generalized advantage estimates (B, R), 0 at masked places. Nothing follows the last real token.

    delta_t = r_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lambda * A_{t+1}.
    """
    _check(rewards, mask)
    _check(values, mask)
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    following_value = torch.zeros_like(rewards[:, 0])
    following_advantage = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following_advantage = (delta + gamma * gae_lambda * following_advantage).masked_fill(~mask[:, t], 0.0)
        following_value = values[:, t]
        advantages[:, t] = following_advantage
    return advantages


def importance_weights(logprobs: Tensor, sampler: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """Return min(exp(logprobs - sampler), cap), (B, R), 1 at masked places: what corrects for replies whose sampler was
    not quite the actor, per token (truncated importance sampling, Ionides 2008).
    """
    _check(logprobs, mask)
    return torch.exp((logprobs - sampler).masked_fill(~mask, 0.0)).clamp(max=cap)


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, clip_range: float, tokens: int,
    weights: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Return PPO's clipped surrogate, -min(ratio * A, clip(ratio, 1 ± clip_range) * A), summed, over `tokens`.

    `weights` (B, R) are importance weights of the tokens; None: all 1.
    """
    _check(logprobs, mask)
    ratio = torch.exp((logprobs - old).masked_fill(~mask, 0.0))
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    with torch.no_grad():
        clipped = masked_sum((bounded > plain).float(), mask)
        kl = masked_sum(kl_k3(old, logprobs), mask)
    worse = torch.maximum(plain, bounded)
    return PolicyLoss(masked_sum(worse if weights is None else worse * weights, mask) / tokens, clipped, kl)


def value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, *, value_clip_range: float, tokens: int
) -> ValueLoss:
    """Return half the clipped squared error, 0.5 * max((V - G)^2, (clip(V, old ± range) - G)^2), over `tokens`."""
    _check(values, mask)
    values, old, returns = (x.masked_fill(~mask, 0.0) for x in (values, old, returns))  # 0 * NaN is NaN in the gradient
    bounded = torch.clamp(values, old - value_clip_range, old + value_clip_range)
    plain_error, bounded_error = (values - returns) ** 2, (bounded - returns) ** 2
    clipped = masked_sum((bounded_error > plain_error).float(), mask).detach()
    return ValueLoss(0.5 * masked_sum(torch.maximum(plain_error, bounded_error), mask) / tokens, clipped)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats of softmax(logits), (…, V) -> (…)."""
    logprobs = torch.log_softmax(logits, dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - Var(G - V) / Var(G) over real tokens, (): 1 perfect, 0 like a constant; NaN if Var(G) is 0."""
    _check(values, mask)
    error = returns - values
    residual = masked_mean((error - masked_mean(error, mask)) ** 2, mask)
    total = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    varies = total > _ROUNDING * masked_mean(returns**2, mask)
    return torch.where(varies, 1 - residual / total, torch.full_like(total, float("nan")))


def _check(x: Tensor, mask: Tensor) -> None:
    assert mask.dtype == torch.bool, "masks are bool, True counts"
    assert x.shape == mask.shape, f"shape {tuple(x.shape)} does not fit mask {tuple(mask.shape)}"
