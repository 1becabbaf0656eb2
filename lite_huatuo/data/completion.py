"""The wire form of a request and its answer: body, content hash, the most tokens it takes, reading it strictly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lite_huatuo.data import finish, refusals, usage
from lite_huatuo.data.asking import Unusable
from lite_huatuo.data.profile import Profile, Usage
from lite_huatuo.data.store import Reply

if TYPE_CHECKING:
    from lite_huatuo.data.asking import Request

TEXT_PARTS = {"text", "output_text", "input_text"}
HIDDEN_PARTS = {"thinking", "reasoning", "reasoning_text", "reasoning_content", "redacted_thinking", "summary_text",
                "reference", "annotation"}  # fmt: skip
REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")


@dataclass(eq=False)
class Fault(Exception):
    """A try that failed and may be repeated. `billed`: it may have cost money; `refused`: it was a 429;
    `unreachable`: nobody took the connection; `doubtful`: it may be of this request or of all."""

    reason: str
    billed: bool = False
    refused: bool = False
    unreachable: bool = False
    doubtful: bool = False  # a 403 of which nobody knows yet whether all requests get it
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


def error_in(answer: Any) -> refusals.Told | None:
    """Return what an answer with status 200 says of an error in place of a reply; None where it holds a reply.

    Gateways pass on so what the provider behind them refused. Nothing was sold then.
    """
    if not isinstance(answer, dict):
        return None
    told = refusals.told(answer)
    failed = bool(answer.get("error")) or (not (answer.get("choices") or answer.get("output")) and bool(told.words))
    return told if failed else None


def read(completion: Any, worst: float, profile: Profile, *, batch: bool = False) -> Reply:
    """Return the reply in a completion's JSON; Fault where it is no completion. Where the endpoint tells no usage that
    can be believed, of a model that costs money, the reply is taken to cost `worst` dollars."""
    try:
        choice = completion["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason") or finish.MISSING
        content, refusal = message.get("content"), message.get("refusal")
        said = parts([content] if isinstance(content, str | dict) else content or [])
    except (AttributeError, IndexError, KeyError, TypeError):
        raise Fault("an answer that is no completion", billed=True) from None
    if not isinstance(reason, str) or writable(reason) != reason:
        raise Fault("an answer whose finish_reason is no text", billed=True)
    hidden = said.hidden or any(message.get(name) for name in REASONING_FIELDS)
    if choice.get("error"):  # a gateway's word on what broke the reply off
        reason = "error" if finish.problem(reason, profile.whole) is None else reason
        said = said._replace(text=refusals.told(choice["error"]).words or said.text)
    said = said._replace(refusal=str(refusal) if refusal else said.refusal, hidden=hidden)
    return reply(completion, said, reason, worst, profile, batch=batch)


class Said(NamedTuple):
    """What the parts of a message say: its text, a refusal, whether hidden reasoning came along, and the type of a part
    that nobody here knows ("" where there is none)."""

    text: str = ""
    refusal: str = ""
    hidden: bool = False
    unknown: str = ""


def parts(content: list[Any]) -> Said:
    """Return what a list of parts says: texts, and {"type": …} as OpenAI, Mistral and Anthropic write them.

    TypeError or AttributeError where it is no such list.
    """
    said, texts = Said(), []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type")
        if kind in TEXT_PARTS or (kind is None and isinstance(part.get("text"), str)):
            if not isinstance(part["text"], str):
                raise TypeError
            texts.append(part["text"])
        elif kind == "refusal":
            said = said._replace(refusal=str(part.get("refusal") or part.get("text") or "refused"))
        elif kind in HIDDEN_PARTS:
            said = said._replace(hidden=True)
        else:
            said = said._replace(unknown=writable(str(kind))[:60])
    return said._replace(text="".join(texts))


def reply(answer: Any, said: Said, reason: str, worst: float, profile: Profile, *, batch: bool) -> Reply:
    """Return what is kept of an answer: its text, why it is no whole reply (or a name that means it is), its price."""
    text = writable(said.text)
    if said.refusal:
        text, reason = writable(said.refusal), "refusal"
    elif finish.problem(reason, profile.whole) is None:
        if said.unknown:
            text, reason = said.unknown, "unknown_part"
        elif not text.strip():
            reason = "only_reasoning" if said.hidden else "empty"
        elif text != said.text:
            reason = "garbled"
    wrote = text or ("reasoning" if said.hidden else "")
    used = usage.read(answer, wrote)
    dollars = worst if used is None else profile.prices.dollars(used, batch=batch)
    return Reply(text, reason, used or Usage(), dollars)


def writable(text: str) -> str:
    """Return a text that a file can hold: JSON can bring half a character, which is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_of(reply: Reply, step: str, profile: Profile) -> str:
    """Return the text of a usable reply; Unusable with the reason otherwise."""
    problem = finish.problem(reply.finish, profile.whole)
    if problem is None:
        return reply.text
    shows = reply.finish in ("refusal", "unknown_part") or finish.kind(reply.finish) == "broken"
    shown = f': "{" ".join(reply.text.split())[:200]}"' if shows and reply.text else ""
    raise Unusable(f"{step}: {problem.words}{shown}", problem.name)
