"""Attention for rows packed one after the other, so that only real tokens go through the network.

A packed batch is one row (1, N): sequences end to end, the position ids beginning at 0 for each. Linear layers see N
tokens and no padding; attention runs sequence by sequence. Registered with transformers as an attention implementation
of its own, which for everything else (padded batches, caches) is transformers' SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed_sdpa"


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: Tensor | None = None,
    packed_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally; query is (B, heads, T, D), key and value (B, kv heads, S, D); returns (B, T, heads, D).

    Without a mask, B = 1 and T = S: sequence by sequence, whose lengths are `packed_lengths` or, where nobody tells
    them (TRL), where `position_ids` (1, T) begin again.
    """
    if attention_mask is not None and query.shape[2] == 1:
        return _attend_one(query, key, value, attention_mask, scaling), None
    if attention_mask is None and query.shape[0] == 1 and query.shape[2] == key.shape[2]:
        lengths = packed_lengths or sequence_lengths(position_ids)
        if len(lengths) > 1:
            pieces = [
                scaled_dot_product_attention(
                    q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=key.shape[1] != query.shape[1]
                )
                for q, k, v in zip(*(x.split(list(lengths), dim=2) for x in (query, key, value)), strict=True)
            ]
            return torch.cat(pieces, dim=2).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)


def _attend_one(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Attend from one new token a row: the query heads of a key head are its rows, so that no key is copied."""
    rows, heads, _, size = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], size)
    return scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling).view(rows, 1, heads, size)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Keep torch from cuDNN's attention while the block writes replies.

    On compute capability 9.0 and 10.0 torch may prefer it. It plans anew for every length of the keys, and each step
    of a reply brings a length of its own.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def sequence_lengths(position_ids: Tensor | None) -> list[int]:
    """Return the lengths of the sequences in a packed row of position ids (1, N); no ids: one sequence."""
    if position_ids is None or position_ids.shape[0] != 1:
        return []
    starts = [0, *(torch.nonzero(position_ids[0, 1:] != position_ids[0, :-1] + 1)[:, 0] + 1).tolist()]
    return [end - start for start, end in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True)]


def _mask(
    *, q_length: int, kv_length: int, q_offset: int = 0, attention_mask: Tensor | None = None, **kwargs: Any
) -> Any:
    """Build no mask where `attend` needs none: rows without padding that begin at their first token."""
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, q_offset=q_offset, attention_mask=attention_mask, **kwargs)


def register() -> None:
    """Make `NAME` known to transformers; again and again is fine."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)


def enable(model: Any) -> bool:
    """Switch a transformers model to packed attention where its layers allow it; return whether it was."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config._attn_implementation != "sdpa" or kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        return False
    register()
    model.set_attn_implementation(NAME)
    return bool(config._attn_implementation == NAME)
