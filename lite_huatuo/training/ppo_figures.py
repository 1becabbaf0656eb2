"""The metrics of one PPO update that come from its rollout; their names are defined in metrics.py."""

from __future__ import annotations

from typing import Any

from lite_huatuo.training import ppo_math
from lite_huatuo.training.rollout import Rollout


def figures(data: Rollout, rewards: Any, advantages: Any, returns: Any) -> dict[str, float]:
    """Return scores, lengths, KL, advantages and values of an update; rewards, advantages and returns are (B, R)."""
    mask, episodes = data.reply_mask, data.episodes
    lengths = [len(episode.reply) for episode in episodes]
    kl = ppo_math.kl_k1(data.logprobs, data.reference)
    mean = ppo_math.masked_mean(advantages, mask)
    explained = ppo_math.explained_variance(data.values, returns, mask).item()
    return {
        "score/mean": data.scores.mean().item(),
        "score/right_share": sum(bool(e.verdict and e.verdict.correct) for e in episodes) / len(episodes),
        "score/form_share": sum(e.well_formed for e in episodes) / len(episodes),
        "score/stopped_share": sum(e.stopped for e in episodes) / len(episodes),
        "score/dropped": len(data.dropped),
        "reply/length_mean": sum(lengths) / len(lengths),
        "reply/length_max": max(lengths),
        "policy/weight_mean": ppo_math.masked_mean(data.weights, mask).item(),
        "policy/entropy": ppo_math.masked_mean(data.entropy, mask).item(),
        "reference/kl_per_token": ppo_math.masked_mean(kl, mask).item(),
        "reference/kl_per_reply": ppo_math.masked_sum(kl, mask).item() / len(episodes),
        "reward/mean": rewards.sum().item() / len(episodes),
        "advantage/mean": mean.item(),
        "advantage/std": ppo_math.masked_mean((advantages - mean) ** 2, mask).sqrt().item(),
        "value/mean": ppo_math.masked_mean(data.values, mask).item(),
        **({} if explained != explained else {"value/explained_variance": explained}),
    }
