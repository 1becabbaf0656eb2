"""SFT examples as token ids with the loss on the reply only, within the recipe's length limits."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lite_huatuo.errors import RecordError
from lite_huatuo.models.tokenizer import StudentTokenizer
from lite_huatuo.records import SFTExample
from lite_huatuo.response_format import render

SHORTEST_COT = 16  # tokens; an example whose complex CoT would be cut below this is dropped


@dataclass(frozen=True)
class SFTRows:
    """Tokenised examples {input_ids, completion_mask} and what became of the others."""

    train: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    cut: int
    dropped: int


def tokenise(
    examples: Sequence[SFTExample],
    tokenizer: StudentTokenizer,
    *,
    max_length: int,
    max_query_length: int,
    too_long: str,
    eval_share: float,
    seed: int,
) -> SFTRows:
    """Tokenise examples and keep `eval_share` of them (at least one where the share is not 0) for the evaluation loss.

    completion_mask is 1 on reply tokens, the stop token included. An example longer than `max_length` tokens is
    dropped, or (`too_long` = "cut") loses the end of its complex CoT; a query longer than `max_query_length` drops it.
    """
    rows, cut, dropped = [], 0, 0
    for example in examples:
        query = tokenizer.query(example.question)
        reply = tokenizer.reply(render(example.complex_cot, example.response))
        if len(query) <= max_query_length and len(query) + len(reply) > max_length and too_long == "cut":
            shorter = _cut(example, tokenizer, max_length - len(query))
            reply, cut = (
                (tokenizer.reply(render(shorter.complex_cot, shorter.response)), cut + 1) if shorter else (reply, cut)
            )
        if len(query) > max_query_length or len(query) + len(reply) > max_length:
            dropped += 1
            continue
        rows.append({"input_ids": query + reply, "completion_mask": [0] * len(query) + [1] * len(reply)})
    held = max(1, round(eval_share * len(rows))) if eval_share > 0 else 0
    if len(rows) <= held:
        raise RecordError(
            f"data.sft: {len(rows)} of {len(examples)} examples fit base.max_length {max_length} and "
            f"data.max_query_length {max_query_length}; raise the limits or set data.too_long to cut"
        )
    random.Random(seed).shuffle(rows)
    return SFTRows(rows[held:], rows[:held], cut, dropped)


def _cut(example: SFTExample, tokenizer: StudentTokenizer, room: int) -> SFTExample | None:
    """Return the example with its complex CoT shortened, at a sentence end where one is near, to fit `room` tokens."""
    ids = tokenizer.hf(example.complex_cot, add_special_tokens=False)["input_ids"]
    keep = len(ids) - (len(tokenizer.reply(render(example.complex_cot, example.response))) - room)
    while keep >= SHORTEST_COT:
        text = tokenizer.hf.decode(ids[:keep])
        ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|[。！？]", text)]
        if ends and ends[-1] > len(text) // 2:
            text = text[: ends[-1]]
        shorter = replace(example, complex_cot=text.rstrip("\ufffd"))
        if len(tokenizer.reply(render(shorter.complex_cot, shorter.response))) <= room:
            return shorter
        keep -= 1
    return None
