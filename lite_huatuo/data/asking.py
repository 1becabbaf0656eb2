"""What a step of the data pipeline asks of a model, and what it gets back. No network here: `data.client` sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lite_huatuo.data import replies
from lite_huatuo.errors import ReplyError

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Request:
    """One user message to a model, and how its reply is wanted.

    `step` is the name the ledger groups by ("search.first"). `schema` is the JSON schema of the reply, None for plain
    text. `sample` tells requests of equal text apart that want different replies ("attempt 2"): each is a reply of its
    own in the store. `temperature` None leaves it to the model's profile.
    """

    step: str
    prompt: str
    max_tokens: int
    schema: dict[str, Any] | None = None
    temperature: float | None = None
    sample: str = ""


class Unusable(ReplyError):
    """A reply came, but it is no answer: a refusal, cut short, empty. Another sample may be one."""


# Sends a request and returns the text of the reply. Raises Unusable, or another ReplyError where this request got none
# (faults that outlasted the retries): the record fails; APIError where no request will (wrong key, budget spent): all
# stops.
Ask = Callable[[Request], Awaitable[str]]


async def ask_json(ask: Ask, request: Request, read: Callable[[dict[str, Any]], Answer], *, tries: int = 3) -> Answer:
    """Ask for a JSON reply and return what `read` makes of it; a reply that cannot be used is asked for again.

    `read` raises ReplyError for an object it cannot use. After `tries` such replies ReplyError tells the last.
    """
    schema = request.schema
    assert schema is not None, "ask_json needs a schema"

    async def use(text: str) -> Answer:
        return read(replies.read_object(text, schema))

    return await ask_again(ask, request, use, tries=tries)


async def ask_again(ask: Ask, request: Request, use: Callable[[str], Awaitable[Answer]], *, tries: int = 3) -> Answer:
    """Ask and return what `use` makes of the reply; where it raises ReplyError, ask for another sample.

    After `tries` replies ReplyError tells what was wrong with the last, by name where that has one. A request that gets
    no reply at all is not repeated: the client has tried for long enough.
    """
    kind = ""
    for number in range(tries):
        sample = request.sample if number == 0 else f"{request.sample} retry {number}".strip()
        try:
            text = await ask(replace(request, sample=sample))
        except Unusable as error:
            last, kind = str(error).removeprefix(f"{request.step}: "), error.kind
            continue
        try:
            return await use(text)
        except ReplyError as error:
            last, kind = str(error), error.kind
    told = f"no usable reply ({kind.replace(':', '.')})" if kind else "no usable reply"
    raise ReplyError(f"{request.step}: {told}: the last of {tries}: {last}")
