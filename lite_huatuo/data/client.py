"""The teacher: sends requests to a chat endpoint, keeps every reply before it is used, and never pays for one twice.

A request goes this way: its hash is looked up in the store; an equal request under way is joined; else money for its
worst case is set aside, it waits for its turn, is sent, tried again where that may help, and its reply is kept. What is
under way is always seen to its end, so that cancelling whoever asked loses nothing that was paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai

from lite_huatuo.data import completion
from lite_huatuo.data.batch import Batches
from lite_huatuo.data.completion import Fault
from lite_huatuo.data.limits import Limits, Retries
from lite_huatuo.data.profile import Profile
from lite_huatuo.data.store import Call, Reply, Store
from lite_huatuo.errors import APIError, LiteHuatuoError, RecordError, ReplyError

if TYPE_CHECKING:
    from lite_huatuo.data.asking import Request

CALLS_PER_CLIENT = 64  # the httpx pool looks at each of its connections at every call: several small ones are cheaper
LONGEST_WAIT = 3600.0  # seconds that a Retry-After may ask for
NOBODY_THERE = 3  # tries to connect, before any call was answered, that tell a wrong address from a short outage
REPEATABLE = {408, 409, 425, 429}  # and 5xx
REQUEST_AT_FAULT = {400, 413, 422}
PROFILE_AT_FAULT = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
WHAT_TO_DO = {
    401: "the key is missing or wrong; set the environment variable {key_env}",
    402: "the account has no credit",
    403: "the key may not use this model here",
    404: "no such model or address; check model ({model}) and base_url in the profile",
}


@dataclass
class Tally:
    """What a teacher did since it was made. `shared`: requests that joined an equal one under way."""

    sent: int = 0
    answered: int = 0
    replayed: int = 0
    shared: int = 0
    failed: int = 0


class Teacher:
    """A model that can be asked; `async with Teacher(profile, store) as teacher: await teacher.ask(request)`.

    `budget` in dollars holds for all that the store's ledger counts. With `batch` the requests of a moment (`quiet`
    seconds without a new one) are sent as one batch job that is looked at every `poll` seconds; a job of an earlier run
    is taken up again. Teachers of other models may use the same store at the same time.
    """

    def __init__(
        self,
        profile: Profile,
        store: Store,
        *,
        budget: float | None = None,
        batch: bool = False,
        quiet: float = 2.0,
        poll: float = 30.0,
        retries: Retries | None = None,
    ) -> None:
        self.profile, self.store, self.budget, self.batch = profile, store, budget, batch
        self.usage = Tally()
        self.retries = retries or Retries()
        self._secret = secret(profile)
        self._limits = Limits(profile.concurrency, profile.requests_per_minute, profile.tokens_per_minute)
        self._unkept = asyncio.Semaphore(2 * profile.concurrency)  # for calls that are sent and not on the disk
        self._quiet, self._poll = quiet, poll
        self._flights: dict[str, asyncio.Task[Reply]] = {}
        self._on_the_wire: set[str] = set()
        self._closing = False
        self._stopped: APIError | None = None

    async def __aenter__(self) -> Teacher:
        number = 1 if self.batch else -(-self.profile.concurrency // CALLS_PER_CLIENT)
        self._clients = [_client(self.profile, self._secret or "none") for _ in range(number)]
        self._turns = itertools.cycle(self._clients)
        self._batches = None
        if self.batch:
            self._batches = Batches(
                self._clients[0],
                self.store,
                f"{self.profile.model} at {self.profile.base_url}",
                record=self._record,
                meaning=self._meaning,
                problem=self._problem,
                retries=self.retries,
                quiet=self._quiet,
                poll=self._poll,
            )
            self._batches.take_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        """See calls under way to their end and drop those that were not sent yet. Batch jobs go on without us."""
        self._closing = True
        flights = list(self._flights.items())
        for key, task in flights:
            if key not in self._on_the_wire:
                task.cancel()
        await asyncio.gather(*(task for _, task in flights), return_exceptions=True)
        if self._batches is not None:
            await self._batches.leave()
        for client in self._clients:
            await client.close()

    async def ask(self, request: Request, salt: str = "") -> str:
        """Return the text of the reply, from the store where it is there. Replies asked for with another `salt` are no
        replies to this request.

        ReplyError: this request has no usable reply. APIError: no request will have one before something is changed.
        """
        body = completion.body(self.profile, request)
        key = completion.key(body, request.sample, salt)
        reply = self.store.get(key)
        if reply is not None:
            self.usage.replayed += 1
            return completion.text_of(reply, request.step)
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.create_task(self._fetch(key, request.step, body))
            task.add_done_callback(lambda done: self._landed(key, done))
        else:
            self.usage.shared += 1
        return completion.text_of(await asyncio.shield(task), request.step)

    def _landed(self, key: str, task: asyncio.Task[Reply]) -> None:
        """Forget a flight; an APIError of one stops all."""
        del self._flights[key]
        error = None if task.cancelled() else task.exception()  # looked at, so that asyncio does not complain
        if isinstance(error, APIError) and self._stopped is None:
            self._stopped = error

    async def _fetch(self, key: str, step: str, body: dict[str, Any]) -> Reply:
        """Return the reply to a request that the store does not hold, trying as often as allowed."""
        for failures in itertools.count(1):
            try:
                return await self._try(key, step, body)
            except Fault as fault:
                self.usage.failed += 1
                if fault.refused:
                    self._limits.refused(fault.retry_after)
                if fault.unreachable and not self.usage.answered and failures >= NOBODY_THERE:
                    hint = "nobody answers there; start the server, or correct base_url"
                    raise self._stop(f"{fault.reason}: {hint}") from None
                if failures >= self.retries.tries:
                    raise ReplyError(f"{step}: {failures} tries failed; the last: {fault.reason}") from None
                # The lines that failed in a batch job gather at once for the next one.
                wait = max(0.0 if self.batch else self.retries.wait(failures), fault.retry_after or 0.0)
            if not self._closing:
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _try(self, key: str, step: str, body: dict[str, Any]) -> Reply:
        """Send once and return the kept reply; Fault where another try may help."""
        self._go_on()
        prompt, output = completion.most_tokens(body, self.profile)
        if self._batches is not None:
            if (call := self._batches.under_way(key)) is not None:
                return await self._batches.wait(call)
            call = await self._reserve(key, step, prompt, output)
            self.usage.sent += 1
            return await self._batches.send(call, body)
        async with contextlib.AsyncExitStack() as slot:
            await slot.enter_async_context(self._limits.slot(prompt // 4 + output))
            async with self._unkept:  # where the disk does not keep up, it sets the pace: a kill loses no more
                call = await self._reserve(key, step, prompt, output)
                self._go_on(call)
                self._on_the_wire.add(key)
                self.store.sent(call)
                self.usage.sent += 1
                try:
                    answer = await self._post(body)
                    await slot.aclose()  # the endpoint need not wait for our disk, while it keeps up
                    reply = await self._record(call, answer)
                except (Fault, LiteHuatuoError) as error:
                    self._failed(call, error)
                    raise
                finally:
                    self._on_the_wire.discard(key)
                self._limits.answered()
                return reply

    def _go_on(self, call: Call | None = None) -> None:
        """Raise where nothing more is to be sent, giving a reservation back."""
        if self._stopped is None and not self._closing:
            return
        if call is not None:
            self.store.budget.settle(call.worst, 0.0)
        raise self._stopped or APIError("the teacher is closing; ask again in the next run")

    async def _reserve(self, key: str, step: str, prompt: int, output: int) -> Call:
        """Set the money aside that a call can cost at most."""
        worst = self.profile.prices.worst(prompt, output, batch=self.batch)
        await self.store.budget.reserve(worst, self.budget)
        return self.store.call(key, step, self.profile.model, worst)

    async def _post(self, body: dict[str, Any]) -> Any:
        """Send a body and return the answer's JSON; Fault, ReplyError or APIError otherwise.

        The plain `post` of the openai client: checking the body against its types and building its objects would cost
        more processor time than all the rest.
        """
        sending = next(self._turns).post("/chat/completions", body=body, cast_to=str)
        try:
            # The client's own timeout is one between two bytes, which a server that keeps a line alive never reaches.
            return json.loads(await asyncio.wait_for(sending, self.profile.timeout))
        except Exception as error:
            raise self._meaning(error) from None

    def _meaning(self, error: Exception) -> Fault | LiteHuatuoError:
        """Return what an exception of a call means; one that is a mistake of ours is raised as it is."""
        if isinstance(error, (Fault, LiteHuatuoError)):
            return error
        if isinstance(error, (openai.APIConnectionError, asyncio.TimeoutError)):
            return self._broken_line(error)
        if isinstance(error, openai.APIStatusError):
            return self._problem(error.status_code, error.body, _retry_after(error.response.headers))
        if isinstance(error, (openai.APIError, ValueError, RecursionError)):
            return Fault("an answer that is no JSON", billed=True)
        raise error

    def _broken_line(self, error: BaseException) -> Fault:
        """Return what happened to the connection, from its causes: over aiohttp the openai package takes a connection
        that was refused or cut for a timeout."""
        causes = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        names = [type(cause).__name__ for cause in causes]
        if any(name == "ConnectError" or name.startswith("ClientConnector") for name in names):
            return Fault(f"no connection to {self.profile.base_url} ({names[-1]})", unreachable=True)
        if any(isinstance(cause, (TimeoutError, asyncio.TimeoutError)) for cause in causes):
            return Fault(f"no answer within {self.profile.timeout:g} seconds", billed=True)
        return Fault(f"the connection to {self.profile.base_url} broke ({names[-1]})", billed=True)

    def _problem(self, status: int, told: Any, retry_after: float | None = None) -> Fault | LiteHuatuoError:
        """Return what an HTTP status other than 200 means: try again, this request fails, or nothing will work."""
        told = told.get("error", told) if isinstance(told, dict) else told
        code = told.get("code") if isinstance(told, dict) else None
        message = told.get("message") if isinstance(told, dict) else told
        message = completion.writable(" ".join(str(message).split())[:300]) if message else ""
        shown = self._redacted(f"HTTP {status}" + f" ({message})" * bool(message))
        if code == "insufficient_quota":
            return self._stop(f"{shown}: the account has no credit left")
        if status in REPEATABLE or status >= 500:
            return Fault(shown, refused=status == 429, retry_after=retry_after)
        if status in REQUEST_AT_FAULT and code not in PROFILE_AT_FAULT:
            return ReplyError(f"the endpoint refused the request: {shown}")
        if code in PROFILE_AT_FAULT:
            return self._stop(f"{shown}: correct what the profile says the model accepts")
        if 300 <= status < 400:
            return self._stop(f"{shown}: the endpoint wants to send us elsewhere, and the key goes nowhere else; "
                              "set base_url to its real address")  # fmt: skip
        hint = WHAT_TO_DO.get(status, "see the endpoint's documentation")
        key_env = self.profile.key_env or "named in the profile's key_env"
        return self._stop(f"{shown}: {hint.format(key_env=key_env, model=self.profile.model)}")

    def _stop(self, message: str) -> APIError:
        """Return the error that ends all, having told everyone."""
        self._stopped = self._stopped or APIError(f"{self.profile.name} at {self.profile.base_url}: {message}")
        return self._stopped

    async def _record(self, call: Call, answer: Any) -> Reply:
        """Keep the reply in a completion's JSON, settle its price, and return it as kept."""
        reply = completion.read(answer, call.worst, self.profile, batch=self.batch)
        reply = Reply(self._redacted(reply.text), reply.finish, reply.usage, reply.dollars)
        await self.store.finish(call, reply)
        self.store.budget.settle(call.worst, reply.dollars)
        self.usage.answered += 1
        return reply

    def _failed(self, call: Call, error: Fault | LiteHuatuoError) -> None:
        """Note a try that brought no reply, and what it may have cost."""
        fault = error if isinstance(error, Fault) else Fault(str(error), billed=isinstance(error, RecordError))
        dollars = call.worst if fault.billed else 0.0
        self.store.failed(call, fault.reason, dollars)
        self.store.budget.settle(call.worst, dollars)

    def _redacted(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text


def secret(profile: Profile) -> str | None:
    """Return the key from the environment, None where the profile needs none; APIError where it is not set."""
    if profile.key_env is None:
        return None
    key = os.environ.get(profile.key_env, "").strip()
    if not key:
        raise APIError(f"{profile.name}: no key; set the environment variable {profile.key_env}")
    return key


def _client(profile: Profile, key: str) -> openai.AsyncOpenAI:
    """Return an openai client that speaks to the profile's address only, retries nothing and follows no redirect."""
    # Proxies of the environment are used for https alone: over http a proxy would see the key.
    proxies = profile.base_url.startswith("https:")
    try:
        http = openai.DefaultAioHttpClient(follow_redirects=False, trust_env=proxies)  # half the processor time
    except RuntimeError:  # aiohttp, or what joins it to the openai package, is not installed
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=proxies)
    with _without_openai_variables():
        return openai.AsyncOpenAI(
            api_key=key, base_url=profile.base_url, max_retries=0, timeout=profile.timeout, http_client=http
        )


@contextlib.contextmanager
def _without_openai_variables() -> Iterator[None]:
    """Hide OPENAI_BASE_URL, OPENAI_CUSTOM_HEADERS and their kin: what is sent where is for the profile alone to say."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("OPENAI_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _retry_after(headers: Any) -> float | None:
    """Return the seconds a 429 or 503 asks to wait, a number or a date; None where it says nothing that can be read."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(headers.get(name)) * unit
            if 0.0 <= seconds < float("inf"):
                return min(seconds, LONGEST_WAIT)
    with contextlib.suppress(TypeError, ValueError):
        day = email.utils.parsedate_to_datetime(headers.get("retry-after"))
        return min(max(0.0, day.timestamp() - time.time()), LONGEST_WAIT)
    return None
