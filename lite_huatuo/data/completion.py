"""The wire form of a request and its answer: body, content hash, the most tokens it takes, reading it strictly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lite_huatuo.data.asking import Unusable
from lite_huatuo.data.profile import Profile, Usage
from lite_huatuo.data.store import Reply

if TYPE_CHECKING:
    from lite_huatuo.data.asking import Request

# Why a reply ended that is no answer, and what to tell. Such replies are kept too: asking again would be paid again.
UNUSABLE = {
    "refusal": "the model refused",
    "content_filter": "the endpoint's content filter stopped the reply",
    "length": "the reply was cut at max_tokens; give this step more tokens",
    "empty": "the reply is empty",
    "garbled": "the reply holds half a character (a lone surrogate)",
}
MOST_TOKENS = 10**9  # of one call that are believed


@dataclass(eq=False)
class Fault(Exception):
    """A try that failed and may be repeated. `billed`: it may have cost money; `refused`: it was a 429;
    `unreachable`: nobody took the connection."""

    reason: str
    billed: bool = False
    refused: bool = False
    unreachable: bool = False
    retry_after: float | None = None  # seconds

    def __post_init__(self) -> None:
        self.reason = writable(self.reason)


def body(profile: Profile, request: Request) -> dict[str, Any]:
    """Return the JSON body of a chat completion, with the fields that the profile says the model takes."""
    result: dict[str, Any] = {
        "model": profile.model,
        "messages": [{"role": "user", "content": request.prompt}],
        profile.token_field: request.max_tokens + profile.reasoning_tokens,
    }
    temperature = profile.default_temperature if request.temperature is None else request.temperature
    if profile.temperature and temperature is not None:
        result["temperature"] = temperature
    if profile.reasoning_effort is not None:
        result["reasoning_effort"] = profile.reasoning_effort
    if profile.seed:  # other samples, other seeds
        result["seed"] = int.from_bytes(hashlib.sha256(request.sample.encode()).digest()[:4], "big") >> 1
    if request.schema is not None and profile.json_schema == "schema":
        name = request.schema.get("title") or "reply"
        form = {"name": name, "strict": True, "schema": request.schema}
        result["response_format"] = {"type": "json_schema", "json_schema": form}
    elif request.schema is not None and profile.json_schema == "object":
        result["response_format"] = {"type": "json_object"}
    return {**result, **profile.extra}


def key(content: dict[str, Any], sample: str, salt: str = "") -> str:
    """Return the hash under which the reply to a body is kept. Neither endpoint nor API key takes part in it, so that
    no reply is paid for twice; where it matters who replied, that is told by a `salt`."""
    parts = [content, sample, salt] if salt else [content, sample]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def most_tokens(content: dict[str, Any], profile: Profile) -> tuple[int, int]:
    """Return (input, output) tokens that a call cannot pass: a token is at least one byte of the prompt."""
    form = content.get("response_format")
    size = len(content["messages"][0]["content"].encode()) + (len(json.dumps(form)) if form else 0)
    return size + 64, content[profile.token_field]


def read(completion: Any, worst: float, profile: Profile, *, batch: bool = False) -> Reply:
    """Return the reply in a completion's JSON; Fault where it is no completion. Where the endpoint tells no usage that
    can be believed, of a model that costs money, the reply is taken to cost `worst` dollars."""
    try:
        choice = completion["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason") or "stop"
        text, refusal = message.get("content"), message.get("refusal")
        if not isinstance(text, str | None):
            raise TypeError
    except (AttributeError, IndexError, KeyError, TypeError):
        raise Fault("an answer that is no completion", billed=True) from None
    if not isinstance(finish, str) or writable(finish) != finish:
        raise Fault("an answer whose finish_reason is no text", billed=True)
    if refusal:
        text, finish = str(refusal), "refusal"
    elif finish not in UNUSABLE and not (text or "").strip():
        finish = "empty"
    told = writable(text or "")
    if finish not in UNUSABLE and told != text:
        finish = "garbled"
    usage = _usage(completion)
    dollars = worst if usage is None else profile.prices.dollars(usage, batch=batch)
    return Reply(told, finish, usage or Usage(), dollars)


def writable(text: str) -> str:
    """Return a text that a file can hold: JSON can bring half a character, which is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_of(reply: Reply, step: str) -> str:
    """Return the text of a usable reply; Unusable with the reason otherwise."""
    if reply.finish in UNUSABLE:
        shown = f': "{" ".join(reply.text.split())[:200]}"' if reply.finish == "refusal" else ""
        raise Unusable(f"{step}: {UNUSABLE[reply.finish]}{shown}")
    return reply.text


def _usage(completion: dict[str, Any]) -> Usage | None:
    """Return the tokens that the endpoint counted, None where it tells none, or none that can be."""
    told = completion.get("usage")
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    counts: dict[str, Any] = {
        "input": told.get("prompt_tokens"),
        "output": told.get("completion_tokens"),
        "cached": details.get("cached_tokens") or 0,
        "written": details.get("cache_write_tokens") or 0,
    }
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts.values()):
        return None
    if counts["cached"] + counts["written"] > counts["input"]:
        return None
    return Usage(**counts)
