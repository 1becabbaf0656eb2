"""One PPO update on a toy batch with nothing but ppo_math: three episodes, a policy that is a table of logits.

python examples/ppo_by_hand.py
"""

import torch

from lite_huatuo.training import ppo_math

torch.manual_seed(0)
B, R, V = 3, 4, 5  # episodes, reply length, vocabulary
policy = torch.zeros(B, R, V, requires_grad=True)
critic = torch.zeros(B, R, requires_grad=True)
replies = torch.randint(V, (B, R))
mask = torch.tensor([[True, True, True, True], [True, True, False, False], [True, True, True, False]])
scores = torch.tensor([1.0, 0.1, 0.0])  # right, wrong, without the form


def logprobs() -> torch.Tensor:
    """Return the log-probability of each reply token, (B, R)."""
    return torch.log_softmax(policy, -1).gather(-1, replies.unsqueeze(-1)).squeeze(-1)


# what the rollout remembers: log-probabilities and values before learning; the reference is the same policy
old, values = logprobs().detach(), critic.detach().clone()
rewards = ppo_math.shape_rewards(scores, old, old, mask, kl_coef=0.03)
advantages = ppo_math.gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
returns = values + advantages
whitened = ppo_math.masked_whiten(advantages, mask)

tokens = int(mask.sum())
optimizer = torch.optim.Adam([policy, critic], lr=0.1)
for epoch in range(3):
    new = logprobs()
    policy_loss = ppo_math.policy_loss(new, old, whitened, mask, clip_range=0.2, tokens=tokens)
    value_loss = ppo_math.value_loss(critic, values, returns, mask, value_clip_range=0.2, tokens=tokens)
    optimizer.zero_grad()
    (policy_loss.loss + value_loss.loss).backward()
    optimizer.step()
    print(
        f"epoch {epoch}: policy loss {policy_loss.loss:.4f}, value loss {value_loss.loss:.4f}, "
        f"clipped {policy_loss.clipped / tokens:.0%}, KL(old || new) {policy_loss.kl / tokens:.4f}"
    )

change = (logprobs().detach() - old).masked_fill(~mask, 0).sum(1)
print("change of each reply's log-probability:", [round(x, 3) for x in change.tolist()])
