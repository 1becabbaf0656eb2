"""The wire form of a request and its answer: body, content hash, the most tokens it takes, reading it strictly.

Two forms: chat completions, which every server speaks, and OpenAI's Responses API where a profile says so.
"""

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
PATHS = {"chat": "/chat/completions", "responses": "/responses"}  # under an endpoint's base_url
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
    """Return the JSON body of a request, with the fields that the profile says the model takes."""
    temperature = profile.default_temperature if request.temperature is None else request.temperature
    sampling = {"temperature": temperature} if profile.temperature and temperature is not None else {}
    most = request.max_tokens + profile.reasoning_tokens
    make = _response_body if profile.api == "responses" else _chat_body
    return {"model": profile.model, **make(profile, request, most), **sampling, **profile.extra}


def _chat_body(profile: Profile, request: Request, most: int) -> dict[str, Any]:
    """Return the fields of a chat completion."""
    result: dict[str, Any] = {"messages": [{"role": "user", "content": request.prompt}], profile.token_field: most}
    if profile.reasoning_effort is not None:
        result["reasoning_effort"] = profile.reasoning_effort
    if profile.seed:  # other samples, other seeds
        result["seed"] = int.from_bytes(hashlib.sha256(request.sample.encode()).digest()[:4], "big") >> 1
    if request.schema is not None and profile.json_schema == "schema":
        form = {"name": _name(request.schema), "strict": True, "schema": request.schema}
        result["response_format"] = {"type": "json_schema", "json_schema": form}
    elif request.schema is not None and profile.json_schema == "object":
        result["response_format"] = {"type": "json_object"}
    return result


def _response_body(profile: Profile, request: Request, most: int) -> dict[str, Any]:
    """Return the fields of a Responses API request. It is not to be stored there: each request stands alone, and what
    is asked about patients is kept by nobody else."""
    result: dict[str, Any] = {"input": request.prompt, "max_output_tokens": most, "store": False}
    if profile.reasoning_effort is not None:
        result["reasoning"] = {"effort": profile.reasoning_effort}
    if request.schema is not None and profile.json_schema == "schema":
        form = {"type": "json_schema", "name": _name(request.schema), "strict": True, "schema": request.schema}
        result["text"] = {"format": form}
    elif request.schema is not None and profile.json_schema == "object":
        result["text"] = {"format": {"type": "json_object"}}
    return result


def _name(schema: dict[str, Any]) -> str:
    return schema.get("title") or "reply"


def key(content: dict[str, Any], sample: str, salt: str = "") -> str:
    """Return the hash under which the reply to a body is kept. Neither endpoint nor API key takes part in it, so that
    no reply is paid for twice; where it matters who replied, that is told by a `salt`."""
    parts = [content, sample, salt] if salt else [content, sample]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def most_tokens(content: dict[str, Any], profile: Profile) -> tuple[int, int]:
    """Return (input, output) tokens that a call cannot pass: a token is at least one byte of the prompt."""
    responses = profile.api == "responses"
    prompt = content["input"] if responses else content["messages"][0]["content"]
    form = content.get("text" if responses else "response_format")
    most = content["max_output_tokens" if responses else profile.token_field]
    return len(prompt.encode()) + (len(json.dumps(form)) if form else 0) + 64, most


def error_in(answer: Any) -> refusals.Told | None:
    """Return what an answer with status 200 says of an error in place of a reply; None where it holds a reply.

    Gateways pass on so what the provider behind them refused. Nothing was sold then.
    """
    if not isinstance(answer, dict):
        return None
    told = refusals.told(answer)
    failed = bool(answer.get("error")) or (not (answer.get("choices") or answer.get("output")) and bool(told.words))
    return told if failed else None


def read(answer: Any, worst: float, profile: Profile, *, batch: bool = False) -> Reply:
    """Return the reply in an answer's JSON; Fault where it is none. Where the endpoint tells no usage that can be
    believed, of a model that costs money, the reply is taken to cost `worst` dollars."""
    try:
        said, reason = (_response if profile.api == "responses" else _choice)(answer)
    except (AttributeError, IndexError, KeyError, TypeError):
        form = "response" if profile.api == "responses" else "completion"
        raise Fault(f"an answer that is no {form}", billed=True) from None
    if not isinstance(reason, str) or writable(reason) != reason:
        raise Fault("an answer whose finish_reason is no text", billed=True)
    return reply(answer, said, reason, worst, profile, batch=batch)


def _choice(completion: Any) -> tuple[Said, Any]:
    """Return what the first choice of a chat completion says, and why it ended."""
    choice = completion["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason") or finish.MISSING
    content, refusal = message.get("content"), message.get("refusal")
    said = parts([content] if isinstance(content, str | dict) else content or [])
    if choice.get("error"):  # a gateway's word on what broke the reply off
        words = refusals.told(choice["error"]).words
        reason, said = ("error" if reason in finish.NAMES["whole"] else reason), said._replace(text=words or said.text)
    native = choice.get("native_finish_reason")  # a gateway's "stop" may stand for another name of the provider's
    if isinstance(native, str) and finish.kind(native) not in ("whole", "unknown") and reason in finish.NAMES["whole"]:
        reason = native
    hidden = said.hidden or any(message.get(name) for name in REASONING_FIELDS)
    return said._replace(refusal=str(refusal) if refusal else said.refusal, hidden=hidden), reason


def _response(response: Any) -> tuple[Said, Any]:
    """Return what the messages of a Responses API answer say, and why it ended: its status, or what made it incomplete.

    A message in the phase "commentary" is thinking aloud, no answer.
    """
    status, why = response["status"], response.get("incomplete_details") or {}
    reason = (why.get("reason") or status) if status == "incomplete" else status or finish.MISSING
    content, hidden, unknown = [], False, ""
    for item in response["output"]:
        kind = item["type"]
        if kind == "message" and item.get("phase") != "commentary":
            content += item["content"]
            reason = item["status"] if reason == "completed" and item.get("status") else reason
        elif kind in ("message", "reasoning"):
            hidden = True
        else:
            unknown = writable(str(kind))[:60]
    said = parts(content)
    return said._replace(hidden=hidden or said.hidden, unknown=unknown or said.unknown), reason


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
