"""Log-probabilities of reply tokens from hidden states, in chunks: logits (N, V) never exist whole.

A microbatch is rows of query + reply end to end, real tokens only, and only the positions that predict a reply token go
through lm_head: position q - 1 + t of a row predicts its reply token t.
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
