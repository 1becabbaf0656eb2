"""Why replies end, in one table with an open end: which of the names that endpoints give stand for a whole reply.

A name that is not in the table is no whole reply: it is unusable, asked for again, and counted by its name.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["whole", "cut", "refused", "broken", "unknown"]

# In lower case. OpenAI's names first, then those of other servers and of gateways that pass theirs through.
NAMES: dict[Kind, tuple[str, ...]] = {
    "whole": ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed", "end"),
    "cut": (
        *("length", "max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens", "max_length"),
        *("model_length", "model_context_window_exceeded", "context_length_exceeded", "token_limit", "error_limit"),
    ),
    "refused": (
        *("content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive"),
        *("content_filtered", "guardrail_intervened", "error_toxic", "image_safety", "language", "moderation"),
    ),
    "broken": (
        *("insufficient_system_resource", "network_error", "error", "abort", "aborted", "cancelled", "canceled"),
        *("user_cancel", "timeout", "failed", "incomplete", "in_progress", "queued", "engine_overloaded", "load"),
        *("max_messages", "steered"),
    ),
}
_KINDS: dict[str, Kind] = {name: kind for kind, names in NAMES.items() for name in names}
MISSING = "none"  # what a reply without a finish reason is counted as

# Our own words for what is wrong with a text that the endpoint takes for whole.
TEXTS = {
    "empty": "the reply is empty",
    "only_reasoning": "the reply is empty, all it wrote is reasoning; raise reasoning_tokens in the profile, lower the "
    "effort, or let the server leave reasoning in the text",
    "garbled": "the reply holds half a character (a lone surrogate)",
    "refusal": "the model refused",
    "content_filter": "the endpoint's content filter stopped the reply",
    "length": "the reply was cut at max_tokens; give this step more tokens",
    "unknown_part": "the reply has a part of an unknown type",
}
_MEANT = {
    "cut": "the reply was cut at a limit; give this step more tokens",
    "refused": "the endpoint refused or filtered the reply",
    "broken": "the endpoint broke the reply off",
}


class Problem(NamedTuple):
    """Why a reply cannot be used: what it is counted by, and the words for the user."""

    name: str
    words: str


def kind(name: str, whole: tuple[str, ...] = ()) -> Kind:
    """Return what a finish reason means; `whole` are names that a profile takes for a whole reply as well."""
    plain = name.strip().lower().removeprefix("finish_reason_")
    if plain in {also.strip().lower() for also in whole}:
        return "whole"
    return _KINDS.get(plain, "unknown")


def reply_kind(name: str, whole: tuple[str, ...] = ()) -> Kind:
    """Return `kind` of a kept reply, whose text may be at fault too: such a text is refused."""
    return kind(name, whole) if name in _KINDS or name not in TEXTS else "refused"


def problem(name: str, whole: tuple[str, ...] = ()) -> Problem | None:
    """Return why a reply that ended so cannot be used, None where it is whole."""
    if name in TEXTS:
        return Problem(f"finish reason {name}" if name in _KINDS else name.replace("_", " "), TEXTS[name])
    means = kind(name, whole)
    if means == "whole":
        return None
    words = _MEANT.get(means) or (
        "nobody here knows whether it is whole; if it is, add the name to whole_reasons in the profile"
    )
    return Problem(f"finish reason {shown(name)}", f"it ended with finish reason {shown(name)}: {words}")


def shown(name: str) -> str:
    """Return a finish reason on one short line, without the colon that ends what a failure is counted by."""
    return " ".join(name.split())[:60].replace(":", ".") or MISSING
