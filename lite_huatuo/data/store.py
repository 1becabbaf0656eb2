"""The request store: every reply ever paid for, on disk before it is used, so that a rerun replays it for free.

One SQLite file. Replies are found by the hash of their request. A call is written down when it is sent and when its
outcome is known, so that calls under way at a kill are known too, and counted at the most they can have cost. One
process at a time writes; a thread of its own commits whatever has gathered in one go, so that nobody waits for the disk
alone. A reply is durable (fsync) when `finish` returns.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lite_huatuo.data.limits import Budget
from lite_huatuo.data.profile import Usage
from lite_huatuo.errors import RecordError

APPLICATION = 0x6C687473  # SQLite's application id of our files
SCHEMA = """
create table if not exists replies (
    key text primary key, step text not null, model text not null, text text not null, finish text not null,
    input integer not null, cached integer not null, written integer not null, output integer not null,
    dollars real not null, created real not null, digest text
) without rowid;
create table if not exists calls (
    id integer primary key, key text not null, step text not null, model text not null,
    state text not null, dollars real not null, created real not null
);
create table if not exists waves (
    name text primary key, owner text not null, batch text, calls text not null, done integer not null
);
"""
# One row per step and model. `dollars` counts replies and lost or failed calls that may have been billed.
LEDGER = """
select step, model, sum(calls), sum(failed), sum(open), sum(input), sum(cached), sum(output), sum(dollars) from (
    select step, model, 1 as calls, 0 as failed, 0 as open, input, cached, output, dollars from replies union all
    select step, model, 0, state != 'sent', state = 'sent', 0, 0, 0, dollars from calls
) group by step, model order by step, model
"""
# What is wrong with the values of one write, not with the file.
OF_THE_VALUES = (ValueError, TypeError, OverflowError, sqlite3.DataError, sqlite3.IntegrityError,
                 sqlite3.InterfaceError, sqlite3.ProgrammingError)  # fmt: skip
GATHERING = 0.01  # seconds; where replies come in numbers, fewer and larger commits save half of the switching


@dataclass(frozen=True)
class Reply:
    """What a model said: the text, why it ended ("stop", "length", "refusal", …), its tokens and price."""

    text: str
    finish: str
    usage: Usage
    dollars: float


@dataclass(frozen=True)
class Call:
    """A request on its way: `worst` is the most it can cost, in dollars."""

    id: int
    key: str
    step: str
    model: str
    worst: float


@dataclass(frozen=True)
class LedgerRow:
    """Calls, tokens and dollars of one step and model. `unanswered`: under way, or lost when a run was killed."""

    step: str
    model: str
    calls: int
    failed: int
    unanswered: int
    input: int
    cached: int
    output: int
    dollars: float


@dataclass(frozen=True)
class Wave:
    """A batch job: the model and address it is for, its calls by key, and the endpoint's id once that is known."""

    name: str
    owner: str
    calls: dict[str, Call]
    batch: str | None = None


@dataclass
class _Write:
    """SQL to run in one transaction, and who waits for it to be on the disk."""

    statements: list[tuple[str, tuple[Any, ...]]]
    done: asyncio.Future[None] | None = field(default=None)


class Store:
    """The store in a file, opened for writing; RecordError where it is damaged or another run holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken: str | None = None
        self._handed_out: set[str] = set()  # waves of this process
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._lock = _lock(path)
        try:
            self._connection, self._writing = _connect(path), _connect(path)
            (self._last_call,) = self._read("select coalesce(max(id), 0) from calls")[0]
            (spent,) = self._read("select (select total(dollars) from replies) + (select total(dollars) from calls)")[0]
        except (sqlite3.Error, RecordError) as error:
            self._lock.close()
            raise error if isinstance(error, RecordError) else RecordError(_told(path, error)) from None
        self.budget = Budget(spent)
        self._writer = threading.Thread(target=self._write, name="store", daemon=True)
        self._writer.start()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and close."""
        self._queue.put(None)
        self._writer.join()
        self._connection.close()
        self._lock.close()

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, None where there is none yet. RecordError where it was changed on the disk."""
        found = self._read(
            "select text, finish, input, cached, written, output, dollars, digest from replies where key = ?", key
        )
        if not found:
            return None
        text, finish, read, cached, written, output, dollars, digest = found[0]
        if digest not in (None, _digest(key, text, finish)):  # None: kept by a version that made none
            raise RecordError(
                f"{self.path}: the reply to request {key[:12]} was changed on the disk; put a copy of the store back, "
                "or move it away to start with a new one"
            )
        return Reply(text, finish, Usage(input=read, cached=cached, written=written, output=output), dollars)

    def answered(self, model: str) -> bool:
        """True where a reply of this model is kept."""
        return bool(self._read("select 1 from replies where model = ? limit 1", model))

    def call(self, key: str, step: str, model: str, worst: float) -> Call:
        """Return a new call; nothing is written before it is sent."""
        self._last_call += 1
        return Call(self._last_call, key, step, model, worst)

    def sent(self, call: Call) -> None:
        """Note that a call is about to be sent. Not waited for: a power cut within milliseconds may forget it."""
        self._queue.put(_Write([_insert(call)]))

    def failed(self, call: Call, reason: str, dollars: float) -> None:
        """Note that a call failed, and what it may have cost."""
        told = reason.encode("utf-8", "backslashreplace").decode()  # an endpoint's words may hold half a character
        self._queue.put(_Write([("update calls set state = ?, dollars = ? where id = ?", (told, dollars, call.id))]))

    async def finish(self, call: Call, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns."""
        usage = reply.usage
        row = (call.key, call.step, call.model, reply.text, reply.finish, usage.input, usage.cached, usage.written,
               usage.output, reply.dollars, time.time(), _digest(call.key, reply.text, reply.finish))  # fmt: skip
        await self._durable(
            ("insert or replace into replies values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row),
            ("delete from calls where id = ?", (call.id,)),
        )

    async def open_wave(self, wave: Wave) -> None:
        """Keep a batch job and its calls before it is sent."""
        self._handed_out.add(wave.name)
        calls = json.dumps([[call.id, call.key] for call in wave.calls.values()])
        await self._durable(
            ("insert into waves values (?, ?, null, ?, 0)", (wave.name, wave.owner, calls)),
            *(_insert(call) for call in wave.calls.values()),
        )

    async def name_batch(self, wave: str, batch: str) -> None:
        """Keep the endpoint's id of a batch job."""
        await self._durable(("update waves set batch = ? where name = ?", (batch, wave)))

    async def close_wave(self, wave: str) -> None:
        """Note that everything a batch job brought is kept."""
        await self._durable(("update waves set done = 1 where name = ?", (wave,)))

    def take_waves(self, owner: str) -> list[Wave]:
        """Return the owner's batch jobs that earlier runs did not see to their end, oldest first, with the calls that
        got no answer. Each job is handed out once."""
        sent = {
            row[0]: Call(*row)
            for row in self._read("select id, key, step, model, dollars from calls where state = 'sent'")
        }
        rows = self._read("select name, calls, batch from waves where not done and owner = ? order by rowid", owner)
        waves = [
            Wave(name, owner, {key: sent[number] for number, key in json.loads(calls) if number in sent}, batch)
            for name, calls, batch in rows
            if name not in self._handed_out
        ]
        self._handed_out.update(wave.name for wave in waves)
        return waves

    def _read(self, query: str, *values: Any) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise RecordError(_told(self.path, error)) from None

    async def _durable(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(_Write(list(statements), done))
        await done

    def _write(self) -> None:
        """Commit what has gathered, again and again, until told to stop (the writer's thread)."""
        go_on, busy = True, False
        while go_on:
            group = [self._queue.get()]
            if busy:
                time.sleep(GATHERING)
            while not self._queue.empty():
                group.append(self._queue.get())
            go_on = None not in group
            writes = [write for write in group if write is not None]
            ended = zip(writes, self._commit(writes), strict=True)
            waiting = [(write.done, problem) for write, problem in ended if write.done is not None]
            busy = len(waiting) > 1
            if waiting:
                _call(waiting)
        self._writing.close()

    def _commit(self, writes: list[_Write]) -> list[str | None]:
        """Return what kept each write from the disk, None where it is there. One that cannot be written does not keep
        the others from it; after a failure of the file nothing is taken for kept. Never raises: somebody waits."""
        if self._broken is None:
            try:
                with self._writing:
                    for write in writes:
                        for statement in write.statements:
                            self._writing.execute(*statement)
                return [None] * len(writes)
            except OF_THE_VALUES as error:
                if len(writes) > 1:
                    return [problem for write in writes for problem in self._commit([write])]
                return [f"{self.path}: holds no such reply ({type(error).__name__}: {error}); it was not kept"]
            except Exception as error:
                self._broken = _told(self.path, error)
        return [self._broken] * len(writes)


def ledger(path: Path) -> list[LedgerRow]:
    """Return calls, tokens and dollars by step and model. A run may be writing meanwhile."""
    if not path.is_file():
        raise RecordError(f"{path}: no such store; it is made by the first run that calls a model")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            return [LedgerRow(*row) for row in connection.execute(LEDGER)]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise RecordError(_told(path, error)) from None


def _digest(key: str, text: str, finish: str) -> str:
    """Return what tells that a reply is as it was kept."""
    return hashlib.sha256(f"{key}\0{finish}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _insert(call: Call) -> tuple[str, tuple[Any, ...]]:
    """Return the SQL that notes a call as sent, at the most it can cost."""
    row = (call.id, call.key, call.step, call.model, call.worst, time.time())
    return "insert into calls values (?, ?, ?, ?, 'sent', ?, ?)", row


def _call(waiting: list[tuple[asyncio.Future[None], str | None]]) -> None:
    """Wake those who wait for a commit, in their own event loop, with what kept theirs from the disk."""

    def wake() -> None:
        for done, problem in waiting:
            if done.done():
                continue
            if problem is None:
                done.set_result(None)
            else:
                done.set_exception(RecordError(problem))

    try:
        waiting[0][0].get_loop().call_soon_threadsafe(wake)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return


def _connect(path: Path) -> sqlite3.Connection:
    """Open the store, making its tables where the file is new."""
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
    (application,) = connection.execute("pragma application_id").fetchone()
    (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
    if tables and application != APPLICATION:
        raise sqlite3.DatabaseError("another program's database")
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    if not tables:
        connection.executescript(f"begin; {SCHEMA} pragma application_id = {APPLICATION}; commit;")
    elif "digest" not in [row[1] for row in connection.execute("pragma table_info(replies)")]:
        connection.execute("alter table replies add column digest text")
    return connection


def _lock(path: Path) -> sqlite3.Connection:
    """Take the right to write, which the system gives back when this process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(path.with_name(f"{path.name}.lock"), timeout=0, check_same_thread=False)
        lock.execute("begin exclusive")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RecordError(f"{path}: another run is using this store; wait for it, or name another store") from None
        raise RecordError(_told(path, error)) from None
    except (sqlite3.Error, OSError) as error:
        raise RecordError(_told(path, error)) from None
    return lock


def _told(path: Path, error: Exception) -> str:
    """Return what went wrong with the file and what to do."""
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return f"{path}: the disk is full; every reply so far is kept, make room and run the same command again"
    if isinstance(error, (sqlite3.OperationalError, OSError)):
        return f"{path}: cannot be used as a request store ({error}); give another file with --store"
    if not isinstance(error, (sqlite3.Error, RecordError)):
        return f"{path}: a write failed ({type(error).__name__}: {error}); run the same command again"
    return f"{path}: damaged, or no request store ({error}); put a copy back, or move it away to start with a new one"
