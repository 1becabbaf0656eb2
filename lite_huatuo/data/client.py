"""The teacher: sends requests to a chat endpoint, keeps every reply before it is used, and never pays for one twice.

A request goes this way: its hash is looked up in the store; an equal request under way is joined; else money for its
worst case is set aside, it waits for its turn, is sent, tried again where that may help, and its reply is kept. What is
under way is always seen to its end, so that cancelling whoever asked loses nothing that was paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import openai

from lite_huatuo.data import completion, connection, finish, refusals
from lite_huatuo.data.batch import Batches
from lite_huatuo.data.completion import Fault
from lite_huatuo.data.limits import Limits, Retries
from lite_huatuo.data.profile import Profile
from lite_huatuo.data.store import Call, Reply, Store
from lite_huatuo.errors import APIError, LiteHuatuoError, RecordError, ReplyError

if TYPE_CHECKING:
    from lite_huatuo.data.asking import Request

CALLS_PER_CLIENT = 64  # the httpx pool looks at each of its connections at every call: several small ones are cheaper
NOBODY_THERE = 3  # tries to connect, before any call was answered, that tell a wrong address from a short outage


@dataclass
class Tally:
    """What a teacher did since it was made. `shared`: requests that joined an equal one under way; `unusable`: replies
    that came and are no answer, by what they are counted by."""

    sent: int = 0
    answered: int = 0
    replayed: int = 0
    shared: int = 0
    failed: int = 0
    unusable: Counter[str] = field(default_factory=Counter)


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
        self._secret = connection.secret(profile)
        self._limits = Limits(profile.concurrency, profile.requests_per_minute, profile.tokens_per_minute)
        self._unkept = asyncio.Semaphore(2 * profile.concurrency)  # for calls that are sent and not on the disk
        self._quiet, self._poll = quiet, poll
        self._flights: dict[str, asyncio.Task[Reply]] = {}
        self._on_the_wire: set[str] = set()
        self._ended = asyncio.Event()  # of the next call that ends
        self._closing = False
        self._stopped: APIError | None = None

    async def __aenter__(self) -> Teacher:
        number = 1 if self.batch else -(-self.profile.concurrency // CALLS_PER_CLIENT)
        self._clients = [connection.connect(self.profile, self._secret or "none") for _ in range(number)]
        self._turns = itertools.cycle(self._clients)
        self._batches = None
        if self.batch:
            self._batches = Batches(
                self._clients[0],
                self.store,
                f"{self.profile.model} at {self.profile.base_url}" + " (responses)" * (self.profile.api == "responses"),
                "/v1" + completion.PATHS[self.profile.api],
                record=self._record,
                meaning=self._meaning,
                problem=lambda status, body: self._problem(status, body, works=True),  # the job was taken
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
            return completion.text_of(reply, request.step, self.profile)
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.create_task(self._fetch(key, request.step, body))
            task.add_done_callback(lambda done: self._landed(key, done))
        else:
            self.usage.shared += 1
        return completion.text_of(await asyncio.shield(task), request.step, self.profile)

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
                    self._off_the_wire(key)
                    if isinstance(error, Fault) and error.doubtful:
                        raise await self._decided(error.reason) from None
                    raise
                finally:
                    self._off_the_wire(key)
                self._limits.answered()
                return reply

    def _off_the_wire(self, key: str) -> None:
        """Note that a call has ended, and wake those who wait for the evidence that it brought."""
        self._on_the_wire.discard(key)
        self._ended.set()
        self._ended = asyncio.Event()

    async def _decided(self, shown: str) -> LiteHuatuoError:
        """Return what a 403 means that says nothing: it is of this request where one that is under way succeeds, and of
        all requests where none does."""
        while self._on_the_wire and not self._works():
            await self._ended.wait()
        return self._refused(shown) if self._works() else self._stop(f"{shown}: {self._advice(403)}")

    def _works(self) -> bool:
        """True where this model is known to answer: in this run, or in an earlier one by the same store."""
        return self.usage.answered > 0 or self.store.answered(self.profile.model)

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
        sending = next(self._turns).post(completion.PATHS[self.profile.api], body=body, cast_to=str)
        try:
            # The client's own timeout is one between two bytes, which a server that keeps a line alive never reaches.
            return json.loads(await asyncio.wait_for(sending, self.profile.timeout))
        except Exception as error:
            raise self._meaning(error, patient=True) from None

    def _meaning(self, error: Exception, *, patient: bool = False) -> Fault | LiteHuatuoError:
        """Return what an exception of a call means; one that is a mistake of ours is raised as it is. `patient`: a 403
        may wait for what other calls bring."""
        if isinstance(error, (Fault, LiteHuatuoError)):
            return error
        if isinstance(error, (openai.APIConnectionError, asyncio.TimeoutError)):
            return connection.broken_line(error, self.profile)
        if isinstance(error, openai.APIStatusError):
            wait = connection.retry_after(error.response.headers)
            return self._problem(error.status_code, error.body, wait, patient=patient)
        if isinstance(error, (openai.APIError, ValueError, RecursionError)):
            return Fault("an answer that is no JSON", billed=True)
        raise error

    def _problem(
        self, status: int, body: Any, retry_after: float | None = None, *, works: bool = False, patient: bool = False
    ) -> Fault | LiteHuatuoError:
        """Return what a status other than 200 means: try again, this request fails, or nothing will work."""
        told = refusals.told(body)
        words = completion.writable(" ".join(told.words.split())[:300])
        return self._sorted(status, told.code, words, f"HTTP {status}", retry_after, works=works, patient=patient)

    def _error_in(self, answer: Any) -> Fault | LiteHuatuoError | None:
        """Return what an error inside an answer with status 200 means, None where there is none."""
        told = completion.error_in(answer)
        if told is None:
            return None
        words = completion.writable(" ".join(told.words.split())[:300])
        code = completion.writable(told.code) or told.status
        status = told.status or 500  # what has no known code is tried again
        found = self._sorted(
            status, told.code, words, f"an error in place of a reply, {code or 'no code'}", patient=not self.batch
        )
        if completion.usage.read(answer, "told") is not None and not isinstance(found, APIError):
            return Fault(found.reason if isinstance(found, Fault) else str(found), billed=True)
        return found

    def _sorted(
        self, status: int, code: str, words: str, name: str, retry_after: float | None = None, *,
        works: bool = False, patient: bool = False,
    ) -> Fault | LiteHuatuoError:  # fmt: skip
        """Return what a refusal means, by the evidence; see `refusals.meaning`."""
        shown = self._redacted(name + f" ({words})" * bool(words))
        means = refusals.meaning(status, code, words, works=works or self._works())
        if means == "again":
            return Fault(shown, refused=status == 429, retry_after=retry_after)
        if means == "record":
            return self._refused(shown)
        if means == "doubt" and patient:
            return Fault(shown, doubtful=True)
        return self._stop(f"{shown}: {self._advice(status, code)}")

    def _refused(self, shown: str) -> ReplyError:
        return ReplyError(f"the endpoint refused the request: {shown}")

    def _advice(self, status: int, code: str = "") -> str:
        return refusals.advice(status, code, key_env=self.profile.key_env, model=self.profile.model)

    def _stop(self, message: str) -> APIError:
        """Return the error that ends all, having told everyone."""
        self._stopped = self._stopped or APIError(f"{self.profile.name} at {self.profile.base_url}: {message}")
        return self._stopped

    async def _record(self, call: Call, answer: Any) -> Reply:
        """Keep the reply in a completion's JSON, settle its price, and return it as kept."""
        problem = self._error_in(answer)
        if problem is not None:
            raise problem
        reply = completion.read(answer, call.worst, self.profile, batch=self.batch)
        reply = Reply(self._redacted(reply.text), self._redacted(reply.finish), reply.usage, reply.dollars)
        await self.store.finish(call, reply)
        self.store.budget.settle(call.worst, reply.dollars)
        self.usage.answered += 1
        unusable = finish.problem(reply.finish, self.profile.whole)
        if unusable is not None:
            self.usage.unusable[unusable.name] += 1
        return reply

    def _failed(self, call: Call, error: Fault | LiteHuatuoError) -> None:
        """Note a try that brought no reply, and what it may have cost."""
        fault = error if isinstance(error, Fault) else Fault(str(error), billed=isinstance(error, RecordError))
        dollars = call.worst if fault.billed else 0.0
        self.store.failed(call, fault.reason, dollars)
        self.store.budget.settle(call.worst, dollars)

    def _redacted(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text
