"""Log-probabilities of reply tokens from hidden states, in chunks: logits (N, V) never exist whole.

Batches are packed as (query + reply) padded on the right, and only the positions that predict a reply token go through
lm_head: position q - 1 + t predicts reply token t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lite_huatuo.training.ppo_math import entropy

CHUNK_TOKENS = 512  # positions whose logits (CHUNK_TOKENS, V) exist at once in float32


@dataclass(frozen=True)
class Batch:
    """A microbatch of M episodes, T = the longest query + reply, R = the longest reply of the whole rollout.

    input_ids (M, T) int64; attention_mask (M, T) int64; reply_mask (M, R) bool; source (N, 2) the (row, position) that
    predicts each of the N real reply tokens; targets (N,) those tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    reply_mask: Tensor
    source: Tensor
    targets: Tensor

    def gather(self, hidden: Tensor) -> Tensor:
        """Return the hidden states (N, H) that predict the real reply tokens, from (M, T, H)."""
        source = self.source.to(hidden.device)  # another device where the layers are spread over several
        return hidden[source[:, 0], source[:, 1]]

    def scatter(self, x: Tensor) -> Tensor:
        """Return per-token numbers (N,) laid out as (M, R), 0 at masked places."""
        mask = self.reply_mask
        return torch.zeros(mask.shape, dtype=x.dtype, device=mask.device).masked_scatter(mask, x.to(mask.device))


def collate(
    queries: Sequence[list[int]], replies: Sequence[list[int]], *, pad_id: int, width: int, device: torch.device | str
) -> Batch:
    """Pack M queries and replies (token ids) for one forward pass; `width` is R."""
    total = max(len(q) + len(r) for q, r in zip(queries, replies, strict=True))
    rows = [[*q, *r] for q, r in zip(queries, replies, strict=True)]
    input_ids = torch.tensor([row + [pad_id] * (total - len(row)) for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (total - len(row)) for row in rows])
    reply_mask = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in replies])
    source = torch.tensor(
        [(m, len(q) - 1 + t) for m, (q, r) in enumerate(zip(queries, replies, strict=True)) for t in range(len(r))]
    )
    targets = torch.tensor([token for r in replies for token in r])
    return Batch(*(tensor.to(device) for tensor in (input_ids, attention_mask, reply_mask, source, targets)))


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    lm_head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    chunk: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """Return (log-probability of each target, entropy), both (N,) float32.

    The distribution is softmax(lm_head(hidden) / temperature); hidden (N, H), targets (N,).
    Where gradients flow, each chunk's logits are recomputed in backward.
    """

    def one(part: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_head(part).float() / temperature
        wanted = wanted.to(logits.device)
        logprobs = torch.gather(logits, 1, wanted.unsqueeze(1)).squeeze(1) - torch.logsumexp(logits, dim=1)
        return logprobs, entropy(logits)

    pieces = []
    for part, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        pieces.append(
            checkpoint(one, part, wanted, use_reentrant=False) if torch.is_grad_enabled() else one(part, wanted)
        )
    logprobs, entropies = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def microbatches(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Cut episodes into microbatches: sorted by length, each at most `budget` tokens with its padding.

    An episode longer than the budget goes alone. Returns lists of indices; every index occurs once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
