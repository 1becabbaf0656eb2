"""Log-probabilities of reply tokens from hidden states, in chunks: logits (N, V) never exist whole.

A microbatch is rows of query + reply end to end, real tokens only, and only the positions that predict a reply token go
through lm_head: position q - 1 + t of a row predicts its reply token t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_NUMBERS = 2**23  # logits that exist at once: 32 MiB in float32


@dataclass(frozen=True)
class Batch:
    """A microbatch of M episodes with S tokens in all, R = the longest reply of the whole rollout.

    rows: the token ids of each episode; reply_mask (M, R) bool; source (N,) the place, among the S tokens end to end,
    that predicts each of the N reply tokens; targets (N,) those tokens.
    """

    rows: list[list[int]]
    reply_mask: Tensor
    source: Tensor
    targets: Tensor

    def gather(self, hidden: Tensor) -> Tensor:
        """Return the hidden states (N, H) that predict the reply tokens, from those of all tokens (S, H)."""
        return hidden[self.source.to(hidden.device)]  # another device where the layers are spread over several

    def scatter(self, x: Tensor) -> Tensor:
        """Return per-token numbers (N,) laid out as (M, R), 0 at masked places."""
        mask = self.reply_mask
        return torch.zeros(mask.shape, dtype=x.dtype, device=mask.device).masked_scatter(mask, x.to(mask.device))


def collate(
    queries: Sequence[list[int]], replies: Sequence[list[int]], *, width: int, device: torch.device | str
) -> Batch:
    """Lay out M queries and replies (token ids) for one forward pass; `width` is R."""
    rows = [[*q, *r] for q, r in zip(queries, replies, strict=True)]
    source: list[int] = []
    start = 0
    for query, row in zip(queries, rows, strict=True):
        source += range(start + len(query) - 1, start + len(row) - 1)
        start += len(row)
    reply_mask = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in replies])
    targets = torch.tensor([token for r in replies for token in r])
    return Batch(rows, *(tensor.to(device) for tensor in (reply_mask, torch.tensor(source), targets)))


def token_logprobs(
    hidden: Tensor, targets: Tensor, lm_head: torch.nn.Linear, *, temperature: float, numbers: int = CHUNK_NUMBERS
) -> tuple[Tensor, Tensor]:
    """Return (log-probability of each target, entropy), both (N,) float32.

    The distribution is softmax(lm_head(hidden) / temperature); hidden (N, H), targets (N,). At most `numbers` logits
    exist at once, whatever N and V: each chunk's are computed again in backward. lm_head is frozen and has no bias.
    """
    weight = lm_head.weight
    assert lm_head.bias is None, "the logits are a product"
    assert not weight.requires_grad, "lm_head is frozen"
    rows = max(1, numbers // weight.shape[0])
    return _TokenLogprobs.apply(hidden.to(weight.device), targets.to(weight.device), weight, temperature, rows)


class _TokenLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies chunk by chunk, with the gradient written out: two products and few passes."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, temperature: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        found = []
        for part, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = _logits(part, weight, temperature)
            total = torch.logsumexp(logits, dim=1)
            logits.sub_(total[:, None])
            found.append((logits.gather(1, wanted[:, None])[:, 0], -(torch.exp(logits).mul_(logits)).sum(dim=1), total))
        logprobs, entropies, totals = (torch.cat(each) for each in zip(*found, strict=True))
        ctx.save_for_backward(hidden, targets, weight, entropies, totals)
        ctx.temperature, ctx.rows = temperature, rows
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, of_logprobs: Tensor, of_entropies: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, weight, entropies, totals = ctx.saved_tensors
        bent = bool(of_entropies.any())
        gradients = []
        for part, wanted, spread, total, up, up_entropy in zip(
            *(x.split(ctx.rows) for x in (hidden, targets, entropies, totals, of_logprobs, of_entropies)), strict=True
        ):
            logprobs = _logits(part, weight, ctx.temperature).sub_(total[:, None])
            p = torch.exp(logprobs)
            # d logprob / d logit = [target] - p;  d entropy / d logit = -p * (log p + entropy)
            if bent:
                logits = logprobs.add_(spread[:, None]).mul_(-up_entropy[:, None]).sub_(up[:, None]).mul_(p)
            else:
                logits = p.mul_(-up[:, None])
            logits.scatter_add_(1, wanted[:, None], up[:, None])
            gradients.append(logits.div_(ctx.temperature).to(weight.dtype) @ weight)
        return torch.cat(gradients), None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return logits / temperature (n, V) float32."""
    logits = (hidden @ weight.t()).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def microbatches(lengths: Sequence[int], *, budget: int, padded: bool = True) -> list[list[int]]:
    """Cut rows into microbatches, sorted by length, each of at most `budget` tokens; `padded` counts padding as well.

    A row longer than the budget goes alone. Returns lists of indices; every index occurs once.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        tokens = (len(groups[-1]) + 1) * lengths[index] if padded and groups else tokens + lengths[index]
        if groups and tokens <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            tokens = lengths[index]
    return groups
