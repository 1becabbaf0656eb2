"""Batch jobs: the requests of a moment are uploaded as one file, run by the endpoint within a day, at a lower price.

A wave is kept in the store with its calls before it is uploaded, and its job carries the wave's name, so that whatever
moment a run is killed at, the next one finds the job again and nothing is sent twice. A wave is closed when every reply
it brought is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from lite_huatuo.data.completion import Fault
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.store import Call, Reply, Store, Wave
from lite_huatuo.errors import APIError, LiteHuatuoError, ReplyError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_LINES, MOST_BYTES = 50_000, 190_000_000  # of one file; OpenAI's limits are 50,000 and 200 MB
MOST_JOBS = 1_000  # looked through, newest first, for a job whose id was not kept
ENDED = ("completed", "expired", "cancelled", "failed")
FULL_QUEUE = ("token_limit_exceeded", "rate_limit_exceeded", "batch_limit_exceeded")  # helped by waiting
MARK = "lite_huatuo_wave"  # the field of a job's metadata that holds the wave's name
KEPT_AT_ONCE = 256  # lines whose replies wait for the disk together

Problem = Fault | LiteHuatuoError
Result = TypeVar("Result")


class Batches:
    """Gathers calls into waves and brings their replies.

    `owner` names the model and its address: jobs of earlier runs that bear it are taken up. `url` is what each line
    asks, /v1/chat/completions or /v1/responses. `record` keeps the reply in an answer's JSON; `meaning` and `problem`
    say what an exception of the openai client and an HTTP status mean.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        store: Store,
        owner: str,
        url: str,
        *,
        record: Callable[[Call, Any], Awaitable[Reply]],
        meaning: Callable[[Exception], Problem],
        problem: Callable[[int, Any], Problem],
        retries: Retries,
        quiet: float,
        poll: float,
    ) -> None:
        self._client, self._store, self._owner, self._url = client, store, owner, url
        self._retries = retries
        self._record, self._meaning, self._problem = record, meaning, problem
        self._quiet, self._poll = quiet, poll
        self._gathered: list[tuple[Call, str]] = []  # with its line
        self._results: dict[int, asyncio.Future[Reply]] = {}  # of calls gathered or under way, by the call's id
        self._taken_up: dict[str, Call] = {}  # calls of an earlier run's waves that nobody has asked for yet, by key
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def take_up(self) -> None:
        """Go on with the waves that an earlier run left open."""
        for wave in self._store.take_waves(self._owner):
            for call in wave.calls.values():
                self._store.budget.take_over(call.worst)
                self._taken_up[call.key] = call
                self._expect(call)
            self._start(self._run(wave, None))

    async def leave(self) -> None:
        """Stop looking; jobs that were sent go on at the endpoint and are taken up by the next run."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def under_way(self, key: str) -> Call | None:
        """Return the call of an earlier run's wave that asks the same; once."""
        return self._taken_up.pop(key, None)

    async def wait(self, call: Call) -> Reply:
        """Return the kept reply of a call under way; Fault, ReplyError or APIError where it has none."""
        return await self._results[call.id]

    async def send(self, call: Call, body: dict[str, Any]) -> Reply:
        """Add a call to the wave that is gathering, and return its kept reply as `wait` does."""
        line = {"custom_id": call.key, "method": "POST", "url": self._url, "body": body}
        self._gathered.append((call, json.dumps(line) + "\n"))
        self._expect(call)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._quiet, self._send_gathered)
        return await self.wait(call)

    def _expect(self, call: Call) -> None:
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        result.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting
        self._results[call.id] = result

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send_gathered(self) -> None:
        """Send what has gathered, in as many waves as the file limits want."""
        for lines in _cut(self._gathered):
            wave = Wave(uuid.uuid4().hex, self._owner, {call.key: call for call, _ in lines})
            self._start(self._run(wave, "".join(line for _, line in lines)))
        self._gathered = []

    async def _run(self, wave: Wave, text: str | None) -> None:
        """See a wave through; `text` is its file, None where an earlier run has sent it."""
        try:
            problem = await self._see_through(wave, text)
            for call in wave.calls.values():
                self._fail(call, problem)
            await self._store.close_wave(wave.name)
        except Exception as error:  # the job may still run: its calls stay as sent, and the next run takes it up
            for call in wave.calls.values():
                self._lose(call, error)

    async def _see_through(self, wave: Wave, text: str | None) -> Problem:
        """Send a wave, wait for its end, keep what it brought; return what befell the calls that got no reply."""
        name = wave.batch
        problem: Problem = Fault("the batch job was never made")
        if text is not None:
            await self._store.open_wave(wave)
            try:
                name = await self._upload(wave, text)
            except (Fault, LiteHuatuoError) as error:
                problem = error
        name = name or await self._find(wave)
        if name is None:
            return problem
        await self._store.name_batch(wave.name, name)
        while (batch := await self._patiently(lambda: self._client.batches.retrieve(name))).status not in ENDED:
            await asyncio.sleep(self._poll)
        if batch.status == "failed":
            return self._refusal(batch)
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            await self._keep(wave, file)
        return Fault("the batch job brought no reply to this request")

    async def _upload(self, wave: Wave, text: str) -> str:
        """Send a wave and return the id of its job. A job is made once: after a Fault it may be there or not."""
        name, content = f"{wave.name}.jsonl", text.encode()
        file = await self._patiently(lambda: self._client.files.create(file=(name, content), purpose="batch"))
        try:
            batch = await self._client.batches.create(
                input_file_id=file.id,
                endpoint=self._url,  # type: ignore[arg-type]
                completion_window="24h",
                metadata={MARK: wave.name},
            )
        except Exception as error:
            raise self._meaning(error) from None
        return batch.id

    async def _find(self, wave: Wave) -> str | None:
        """Return the id of a wave's job where it is not known whether there is one; None: there is none."""

        async def look() -> str | None:
            seen = 0
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(MARK) == wave.name:
                    return batch.id
                if (seen := seen + 1) >= MOST_JOBS:
                    break
            return None

        return await self._patiently(look)

    async def _patiently(self, do: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `do` returns, trying again after faults; Fault where the tries are used up."""
        for failures in itertools.count(1):
            try:
                return await do()
            except Exception as error:
                problem = self._meaning(error)
                if not isinstance(problem, Fault) or failures >= self._retries.tries:
                    raise problem from None
                wait = max(self._retries.wait(failures), problem.retry_after or 0.0)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    def _refusal(self, batch: Any) -> Problem:
        """Return why the endpoint took none of a job's lines."""
        errors = (batch.errors.data if batch.errors else None) or []
        told = "; ".join(f"{error.code}: {error.message}" for error in errors[:3]) or "no reason told"
        if any(error.code in FULL_QUEUE for error in errors):
            return Fault(f"the batch job was refused ({told})", retry_after=10 * self._poll)
        return APIError(f"the batch job {batch.id} was refused ({told}); correct the profile and run again")

    async def _keep(self, wave: Wave, file: str) -> None:
        """Keep what the lines of a job's file brought, and tell those who wait."""
        content = await self._patiently(lambda: self._client.files.content(file))
        lines = io.BytesIO(content.content)
        while some := list(itertools.islice(lines, KEPT_AT_ONCE)):
            await asyncio.gather(*(self._take(call, row) for call, row in _rows(some, wave)))

    async def _take(self, call: Call, row: dict[str, Any]) -> None:
        """Keep what one line brought."""
        response, error = row.get("response"), row.get("error")
        try:
            if error or not response:
                error = error or {}
                raise Fault(f"batch: {error.get('code')}: {error.get('message')}")
            if response.get("status_code") != 200:
                raise self._problem(response.get("status_code") or 500, response.get("body"))
            reply = await self._record(call, response.get("body"))
        except (Fault, ReplyError, APIError) as problem:
            self._fail(call, problem)
            return
        self._taken_up.pop(call.key, None)
        result = self._results.pop(call.id, None)
        if result is not None and not result.done():
            result.set_result(reply)

    def _fail(self, call: Call, problem: Problem) -> None:
        """Note that a call brought no reply, and tell who waits. Of a job, only the replies are billed."""
        if call.id in self._results:
            self._store.failed(call, problem.reason if isinstance(problem, Fault) else str(problem), 0.0)
            self._end(call, problem, 0.0)

    def _lose(self, call: Call, error: Exception) -> None:
        """Tell who waits for a call that its job is out of reach; it stays counted at its worst case."""
        if isinstance(error, (Fault, ReplyError)):
            told = error.reason if isinstance(error, Fault) else error
            error = APIError(f"a batch job is out of reach ({told}); it goes on, run the same command to take it up")
        if call.id in self._results:
            self._end(call, error, call.worst)

    def _end(self, call: Call, error: Exception, dollars: float) -> None:
        self._taken_up.pop(call.key, None)
        self._store.budget.settle(call.worst, dollars)
        result = self._results.pop(call.id)
        if not result.done():
            result.set_exception(error)


def _rows(lines: list[bytes], wave: Wave) -> Iterator[tuple[Call, dict[str, Any]]]:
    """Yield the calls of a file's lines with what the lines say; a line that says nothing of a call is left out."""
    for line in lines:
        with contextlib.suppress(ValueError, AttributeError):
            row = json.loads(line)
            if (call := wave.calls.get(row.get("custom_id"))) is not None:
                yield call, row


def _cut(lines: list[tuple[Call, str]]) -> Iterator[list[tuple[Call, str]]]:
    """Yield the lines in groups that fit into one file each."""
    group: list[tuple[Call, str]] = []
    size = 0
    for call, line in lines:
        if group and (len(group) >= MOST_LINES or size + len(line) > MOST_BYTES):
            yield group
            group, size = [], 0
        group.append((call, line))
        size += len(line)
    if group:
        yield group
