"""Every metric of metrics.jsonl, defined once; docs/metrics.md is generated from this table."""

from __future__ import annotations

METRICS: dict[str, str] = {
    "sft/loss": "mean negative log-likelihood per reply token over the steps since the last line, nats",
    "sft/eval_loss": "the same on the examples kept for evaluation",
    "sft/token_accuracy": "share of reply tokens that are the model's first choice",
    "sft/entropy": "mean entropy of the next-token distribution at reply tokens, nats",
    "sft/gradient_norm": "norm of the adapter's gradient before clipping",
    "sft/learning_rate": "learning rate of the last optimizer step",
    "sft/skipped_steps": "optimizer steps since the last line left out because their gradient was not a finite number",
    "sft/recomputed_layers": "decoder layers whose activations backward computes again; 0 without checkpointing",
    "sft/epoch": "passes over the examples so far",
    "score/mean": "mean score of the update's episodes",
    "score/right_share": "share of episodes whose final response the verifier found right",
    "score/form_share": "share of episodes with a well-formed reply",
    "score/stopped_share": "share of episodes that ended with a stop token within the reply limit",
    "score/dropped": "episodes dropped because the verifier failed",
    "reply/length_mean": "mean number of reply tokens, stop token included",
    "reply/length_max": "largest number of reply tokens",
    "policy/loss": "clipped surrogate loss, mean over the update's optimizer steps",
    "policy/approx_kl": "k3 estimate of KL(old policy || new policy) per token, last epoch",
    "policy/clip_share": "share of tokens whose ratio was clipped, mean over the update's optimizer steps",
    "policy/weight_mean": "mean importance weight; 1 where the sampler's log-probabilities are the actor's",
    "policy/entropy": "mean entropy of the sampling distribution at reply tokens in the rollout, nats",
    "policy/gradient_norm": "norm of the actor's gradient before clipping, mean over the optimizer steps",
    "policy/learning_rate": "actor's learning rate at the last optimizer step",
    "policy/epochs": "PPO epochs done (fewer than asked where target_kl stopped them)",
    "reference/kl_per_token": "mean over tokens of k1 = log pi - log ref in the rollout, nats",
    "reference/kl_per_reply": "mean over episodes of the sum of k1, nats",
    "reward/mean": "mean over episodes of the summed rewards (score minus kl_coef times KL)",
    "advantage/mean": "mean advantage before whitening",
    "advantage/std": "standard deviation of the advantages before whitening",
    "value/loss": "clipped value loss, mean over the update's optimizer steps",
    "value/clip_share": "share of tokens whose value was clipped, mean over the update's optimizer steps",
    "value/mean": "mean of the critic's values in the rollout",
    "value/explained_variance": "1 - Var(return - value) / Var(return) in the rollout",
    "learn/skipped_steps": "optimizer steps left out because a loss or a gradient was not a finite number",
    "learn/recomputed_layers": "decoder layers whose activations backward computes again; 0 without checkpointing",
    "value/gradient_norm": "norm of the critic's gradient before clipping, mean over the optimizer steps",
    "watch/gap": "share right by the verifier minus share right by the second one, on a sample of the episodes",
    "watch/second_right_share": "share right by the second verifier on that sample",
    "watch/length_ratio": "mean reply length to that of the first updates, or the inverse where it is shorter",
    "watch/repetition": "mean share of a reply's runs of 4 tokens that were there before in it",
    "watch/no_form_share": "share of episodes without a well-formed reply",
    "watch/answer_list_share": "share of final responses that list candidates instead of giving an answer",
    "heldout/score": "mean score, greedy, on the problems kept for choosing the best checkpoint",
    "heldout/right_share": "share verified right among them",
    "heldout/form_share": "share well-formed among them",
    "time/rollout_seconds": "sampling replies",
    "time/scoring_seconds": "verifier, log-probabilities of actor and reference, values",
    "time/learning_seconds": "PPO epochs",
    "memory/sft_mib": "most memory in use since SFT began: allocated on CUDA, resident on a CPU",
    "memory/rollout_mib": "most memory in use while replies were sampled: allocated on CUDA, resident on a CPU",
    "memory/scoring_mib": "the same while the rollout was scored",
    "memory/learning_mib": "the same in the PPO epochs",
    "time/tokens_per_second": "reply tokens of the update divided by its total time",
}


def check(row: dict[str, float]) -> dict[str, float]:
    """Return the row; every name with a slash in it must be defined above."""
    unknown = [name for name in row if "/" in name and name not in METRICS]
    assert not unknown, f"metrics without a definition: {unknown}"
    return row
