"""Run one asynchronous piece of work over a stream of records: many at a time, outputs in the order of the input,
resumable at any moment, memory flat.

While a job runs, its outputs stand under temporary names beside a state file that says how many records are done and
how long each output is; a killed job goes on from there. What it asked for since then comes from the store for free.
The last act renames the outputs into place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from lite_huatuo import jsonl, lock
from lite_huatuo.data.side_files import FAILED, kind
from lite_huatuo.errors import APIError, CheckpointError, RecordError, ReplyError

Record = TypeVar("Record")
Rows = dict[str, list[dict[str, Any]]]  # output -> rows a record brings; every output must be one of the job's
Work = Callable[[Record], Awaitable[Rows]]

AHEAD = 16  # times the concurrency: records that may wait to be written, so that a slow one holds up nobody
MOST_AHEAD = 4096
STATE_SECONDS = 1.0
LEAST_FAILURES = 20  # a job is not stopped for fewer, unless nothing else came of it


@dataclass
class Stop:
    """Tells a running job to end at once. `asked` is why, None while it may run; `signal` is the number of the signal
    that asked. A call under way is seen to its end by the teacher, which keeps its reply."""

    asked: str | None = None
    signal: int | None = None
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, why: str, signal: int | None = None) -> None:
        """Ask for the end."""
        self.asked, self.signal = why, signal
        self.heard.set()


async def run(
    records: Iterable[Record],
    work: Work[Record],
    outputs: Mapping[str, Path],
    *,
    fingerprint: dict[str, Any],
    concurrency: int,
    max_failures: float = 0.05,
    stop: Stop | None = None,
    advance: Callable[[int, Counter[str]], None] = lambda done, counts: None,
) -> Counter[str]:
    """Do the work for every record and return the counts: rows by output, "kind" of reasons by "output: kind".

    `records` have an `id`. A record whose work raises ReplyError is written to the output "failed" with the reason.
    `fingerprint` tells jobs apart: an unfinished one of another fingerprint is refused. APIError is raised where
    nothing more can be asked or `stop` was asked: all that came in order before is kept, and the same call goes on
    there; and where failures pass the share `max_failures`: the same call asks them all again. RecordError where
    another process writes these outputs.
    """
    with _alone(outputs, f"data {fingerprint.get('job', '')}"):
        files = _Files(outputs, fingerprint)
        return await _run(records, work, files, concurrency, max_failures, stop or Stop(), advance)


async def _run(
    records: Iterable[Record],
    work: Work[Record],
    files: _Files,
    concurrency: int,
    max_failures: float,
    stop: Stop,
    advance: Callable[[int, Counter[str]], None],
) -> Counter[str]:
    """Do what `run` says."""
    stream = iter(islice(records, files.done, None))
    turns = asyncio.Semaphore(concurrency)
    stopped = asyncio.create_task(stop.heard.wait())
    waiting: deque[asyncio.Task[Rows]] = deque()
    try:
        while True:
            for record in islice(stream, concurrency + min(AHEAD * concurrency, MOST_AHEAD) - len(waiting)):
                waiting.append(asyncio.create_task(_guarded(record, work, turns)))
            if not waiting:
                break
            await asyncio.wait((waiting[0], stopped), return_when=asyncio.FIRST_COMPLETED)
            if not waiting[0].done():
                raise APIError(str(stop.asked))
            files.write(waiting.popleft().result())
            advance(files.done, files.counts)
            files.check(max_failures)
        files.check(max_failures, ended=True)
    except TooManyFailed:
        raise
    except APIError as error:
        raise APIError(f"{error} ({files.done:,} records are done; the same command goes on after them)") from None
    finally:
        for task in (*waiting, stopped):
            task.cancel()
        await asyncio.gather(*waiting, stopped, return_exceptions=True)
        files.close()
    files.finish()
    return files.counts


def forget(outputs: Mapping[str, Path]) -> None:
    """Remove a job's outputs, finished or not, and its state; RecordError where another process writes them."""
    with _alone(outputs, "a data job that begins again"):
        for path in (*outputs.values(), *map(part, outputs.values()), state_path(outputs)):
            path.unlink(missing_ok=True)


@asynccontextmanager
async def stopped_by_signals(stop: Stop) -> AsyncIterator[None]:
    """Let SIGINT and SIGTERM ask for a stop, so that calls under way are kept; a second one ends at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def ask(number: signal.Signals) -> None:
        if stop.asked is None:
            stop.ask(f"stopped by {number.name}", int(number))
        elif task is not None:
            task.cancel()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # the loop would leave Python's own


def part(path: Path) -> Path:
    """Return the name an output has while the job runs."""
    return path.with_name(f".{path.name}.part")


def state_path(outputs: Mapping[str, Path]) -> Path:
    """Return where the state of an unfinished job stands."""
    first = next(iter(outputs.values()))
    return first.with_name(f".{first.name}.state")


class TooManyFailed(APIError):
    """More records failed than may."""


@contextmanager
def _alone(outputs: Mapping[str, Path], work: str) -> Iterator[None]:
    """Keep other processes from the outputs: one with another request store would write the same files."""
    first = next(iter(outputs.values()))
    with ExitStack() as held:
        try:
            held.enter_context(lock.locked(first, work))
        except CheckpointError as error:
            raise RecordError(str(error)) from None
        except OSError as error:
            raise RecordError(f"{first}: cannot be written ({error.strerror}); make room or choose another") from None
        held.callback(first.with_name(f".{first.name}.lock").unlink, missing_ok=True)
        yield


async def _guarded(record: Record, work: Work[Record], turns: asyncio.Semaphore) -> Rows:
    """Do one record's work when it is its turn; a record that fails brings a row that says so."""
    async with turns:
        try:
            return await work(record)
        except ReplyError as error:
            step, _, reason = str(error).partition(": ")
            row = {"id": record.id, "step": step, "reason": reason or str(error)}  # type: ignore[attr-defined]
            return {FAILED: [row]}


class _Files:
    """The outputs of a job under way, and its state."""

    def __init__(self, outputs: Mapping[str, Path], fingerprint: dict[str, Any]) -> None:
        assert FAILED in outputs, "a job needs a place for what failed"
        self.outputs, self.fingerprint = dict(outputs), fingerprint
        self.state_path = state_path(outputs)
        self.done, self.counts, offsets = self._load()
        self.files: dict[str, IO[bytes]] = {}
        self.failed, self.last = False, ""
        with self._on_disk():
            self.state_path.parent.mkdir(parents=True, exist_ok=True)
            for name, path in self.outputs.items():
                file = self.files[name] = part(path).open("r+b" if offsets else "wb")
                file.truncate(offsets.get(name, 0))
                file.seek(offsets.get(name, 0))
        self.saved = time.monotonic()

    def write(self, rows: Rows) -> None:
        """Append one record's rows, and now and then the state."""
        with self._on_disk():
            for name, lines in rows.items():
                for row in lines:
                    self.files[name].write(jsonl.dumps(row).encode() + b"\n")
                    self.counts[name] += 1
                    if "reason" in row:
                        self.counts[f"{name}: {row.get('step', '')}: {kind(row['reason'])}"] += 1
                    if name == FAILED:
                        self.last = f"; the last: {row['reason']}"
        self.done += 1
        if time.monotonic() - self.saved > STATE_SECONDS:
            self.save()

    def save(self) -> None:
        """Flush the outputs to the disk, then the state that speaks of them."""
        with self._on_disk():
            for file in self.files.values():
                file.flush()
                os.fsync(file.fileno())
            state = {
                "fingerprint": self.fingerprint,
                "done": self.done,
                "counts": self.counts,
                "offsets": {name: file.tell() for name, file in self.files.items()},
            }
            jsonl.write_text(self.state_path, json.dumps(state, ensure_ascii=False) + "\n")
        self.saved = time.monotonic()

    def check(self, share: float, *, ended: bool = False) -> None:
        """Raise TooManyFailed where more than this share of the records failed: of a few, only where all did.

        The state is forgotten then, so that the next run asks the failed ones again.
        """
        failed = self.counts[FAILED]
        all_failed = ended and failed >= self.done > 0
        if failed <= share * self.done or (failed < LEAST_FAILURES and not all_failed):
            return
        reason, most = next(entry for entry in self.counts.most_common() if entry[0].startswith(f"{FAILED}: "))
        self.failed = True
        raise TooManyFailed(
            f"{failed:,} of {self.done:,} records failed, mostly {reason.partition(': ')[2]} ({most:,}){self.last}; "
            f"see {part(self.outputs[FAILED])}; mend what is wrong and run the same command again: only what failed is "
            "asked again; or let more fail with --max-failures"
        )

    def close(self) -> None:
        """Save where the job stands, if it can go on there, and close the outputs."""
        try:
            self.save()
            if self.failed:
                self.state_path.unlink()
        finally:
            for file in self.files.values():
                file.close()

    def finish(self) -> None:
        """Put the outputs in place, the first one last: where it is, all are."""
        with self._on_disk():
            for path in reversed(self.outputs.values()):
                os.replace(part(path), path)
            self.state_path.unlink()

    def _load(self) -> tuple[int, Counter[str], dict[str, int]]:
        """Return (records done, counts, length of each output) of an unfinished job, or those of a new one."""
        if not self.state_path.exists():
            return 0, Counter(), {}
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            before, offsets = dict(state["fingerprint"]), {name: int(state["offsets"][name]) for name in self.outputs}
            done, counts = int(state["done"]), Counter(state["counts"])
        except (OSError, ValueError, KeyError, TypeError):
            raise RecordError(
                f"{self.state_path}: damaged; begin again with --overwrite: paid replies are in the store"
            ) from None
        if before != self.fingerprint:
            differ = [key for key in {*before, *self.fingerprint} if before.get(key) != self.fingerprint.get(key)]
            raise RecordError(
                f"{self.state_path}: an unfinished job with other settings ({', '.join(sorted(differ))}) stands here; "
                "give the same ones to go on with it, or --overwrite to begin again"
            )
        whole = [self._whole(path, offsets[name]) for name, path in self.outputs.items()]
        return (done, counts, offsets) if all(whole) else (0, Counter(), {})

    def _whole(self, path: Path, length: int) -> bool:
        """True where an output is there as far as the state says, unfinished or (after a killed finish) in place."""
        if not part(path).exists() and path.exists() and path.stat().st_size == length:
            os.replace(path, part(path))  # the finish that put it in place was killed before its end: it is done again
        return part(path).exists() and part(path).stat().st_size >= length

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Tell what the disk refuses."""
        try:
            yield
        except OSError as error:
            raise RecordError(
                f"{self.state_path.parent}: cannot be written ({error.strerror}); make room or choose another folder"
            ) from None
