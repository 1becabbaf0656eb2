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


# Sends a request and returns the text of the reply. Raises ReplyError where this request got none (refusal, faults that
# outlasted the retries): the record fails; APIError where no request will (wrong key, budget spent): all stops.
Ask = Callable[[Request], Awaitable[str]]


async def ask_json(ask: Ask, request: Request, read: Callable[[dict[str, Any]], Answer], *, tries: int = 3) -> Answer:
    """Ask for a JSON reply and return what `read` makes of it; a reply that cannot be read is asked for again.

    `read` raises ReplyError for an object it cannot use. After `tries` unreadable replies ReplyError tells the last.
    """
    assert request.schema is not None, "ask_json needs a schema"
    for number in range(tries):
        sample = request.sample if number == 0 else f"{request.sample} retry {number}".strip()
        text = await ask(replace(request, sample=sample))
        try:
            return read(replies.read_object(text, request.schema))
        except ReplyError as error:
            last = error
    raise ReplyError(f"{request.step}: {tries} replies could not be read; the last: {last}")
