"""Replies by transformers' own `generate`, batch after batch, for bases that cannot be packed (unsloth's, for one)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.training.decoding import OnReply, Reply


@torch.no_grad()
def decode(
    shared: SharedBase,
    queries: Sequence[list[int]],
    *,
    max_reply_length: int,
    batch_size: int,
    temperature: float | None,
    top_p: float = 1.0,
    on_reply: OnReply | None = None,
) -> list[Reply]:
    """Write one reply per query with the active adapter; each batch waits for its longest reply.

    Queries of like length go together. `on_reply` is given the replies of each batch. The replies, in the order of the
    queries, come without log-probabilities.
    """
    from transformers import GenerationConfig

    tokenizer = shared.tokenizer
    sampling: dict[str, Any] = (
        {"do_sample": False}
        if temperature is None
        else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    )
    config = GenerationConfig(
        max_new_tokens=max_reply_length,
        eos_token_id=tokenizer.stop_ids,
        pad_token_id=tokenizer.pad_id,
        use_cache=True,
        **sampling,
    )
    order = sorted(range(len(queries)), key=lambda i: (len(queries[i]), i))
    replies = [Reply() for _ in queries]
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        width = max(len(queries[i]) for i in group)
        padding = [width - len(queries[i]) for i in group]
        ids = torch.tensor([[tokenizer.pad_id] * pad + queries[i] for i, pad in zip(group, padding, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        with shared.writing(len(group), width + max_reply_length):
            output = shared.causal.generate(
                input_ids=ids.to(shared.device), attention_mask=mask.to(shared.device), generation_config=config
            )
        for i, tokens in zip(group, output[:, width:].tolist(), strict=True):
            replies[i] = _until_stop(tokens, tokenizer.stop_ids)
            if on_reply is not None:
                on_reply(i, replies[i])
    return replies


def _until_stop(tokens: list[int], stop_ids: list[int]) -> Reply:
    """Return the reply up to and with its first stop token."""
    for position, token in enumerate(tokens):
        if token in stop_ids:
            return Reply(tokens[: position + 1], True)
    return Reply(tokens, False)
