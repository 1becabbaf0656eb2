"""What a call used, read from the usage of an answer: every name that endpoints count tokens by, and no cent unseen.

Where endpoints disagree the dearer reading stands: tokens of the total that neither input nor output holds are billed
output (hidden reasoning that is counted beside the reply), and a count of nothing beside a text is no count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lite_huatuo.data.profile import Usage

MOST_TOKENS = 10**9  # of one call that are believed
INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count", "inputTokens", "prompt_eval_count")
OUTPUT = (
    *("completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count", "outputTokens"),
    "eval_count",
)
TOTAL = ("total_tokens", "totalTokenCount", "total_token_count", "totalTokens")
REASONING = ("reasoning_tokens", "thoughtsTokenCount", "thoughts_token_count", "thinking_tokens")
CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount", "cached_content_token_count")
WRITTEN = ("cache_write_tokens", "cache_creation_tokens")
# Of endpoints whose count of input leaves these out.
BESIDE_CACHED, BESIDE_WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_PLACES = ("usage", "usageMetadata", "usage_metadata")
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")


def read(answer: Mapping[str, Any], text: str) -> Usage | None:
    """Return the tokens of an answer; None where the endpoint tells none, or none that can be believed beside its text.

    `text` is what the reply says; a reply that says something used input and output.
    """
    told = next((answer[place] for place in _PLACES if isinstance(answer.get(place), dict)), answer)
    levels = [told, *(told[name] for name in _DETAILS if isinstance(told.get(name), dict))]
    given, written = _first(levels[:1], INPUT), _first(levels[:1], OUTPUT)
    total, reasoning = _first(levels[:1], TOTAL), _first(levels, REASONING)
    cached, stored = _first(levels, CACHED) or 0, _first(levels, WRITTEN) or 0
    if given is None or (written is None and (total is None or not text)):
        return None
    counts = (given, written or 0, total or 0, reasoning or 0, cached, stored)
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts):
        return None
    given, written, total, reasoning, cached, stored = counts
    beside = [told.get(name) or 0 for name in (BESIDE_CACHED, BESIDE_WRITTEN)]
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in beside):
        return None
    if "input_tokens" in told and not (cached or stored):
        given, cached, stored = given + sum(beside), beside[0], beside[1]
    output = max(written, total - given)
    if reasoning > written and output < written + reasoning:  # it cannot be a part of what was written
        output = written + reasoning
    if cached + stored > given or (text and (given == 0 or output == 0)):
        return None
    return Usage(input=given, cached=cached, written=stored, output=output)


def _first(levels: list[Mapping[str, Any]], names: tuple[str, ...]) -> Any:
    """Return the first value that stands under one of the names, None where there is none."""
    return next((level[name] for level in levels for name in names if level.get(name) is not None), None)
