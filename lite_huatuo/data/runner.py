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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from lite_huatuo import jsonl
from lite_huatuo.data.side_files import FAILED, kind
from lite_huatuo.errors import APIError, RecordError, ReplyError

Record = TypeVar("Record")
Rows = dict[str, list[dict[str, Any]]]  # output -> rows a record brings; every output must be one of the job's
Work = Callable[[Record], Awaitable[Rows]]

AHEAD = 16  # times the concurrency: records that may wait to be written, so that a slow one holds up nobody
MOST_AHEAD = 4096
STATE_SECONDS = 1.0
LEAST_FAILURES = 20  # a job is not stopped for fewer


@dataclass
class Stop:
    """Tells a running job to take nothing new and end after what is under way. `asked` is why, None while it may run;
    `signal` is the number of the signal that asked."""

    asked: str | None = None
    signal: int | None = None


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
    nothing more can be asked, where failures pass the share `max_failures`, and where `stop` was asked; all that came
    in order before is kept, and the same call goes on there.
    """
    stop = stop or Stop()
    files = _Files(outputs, fingerprint)
    stream = iter(islice(records, files.done, None))
    turns = asyncio.Semaphore(concurrency)
    waiting: deque[asyncio.Task[Rows]] = deque()
    ended: BaseException | None = None
    try:
        while ended is None:
            while len(waiting) < concurrency + min(AHEAD * concurrency, MOST_AHEAD) and stop.asked is None:
                try:
                    waiting.append(asyncio.create_task(_guarded(next(stream), work, turns, stop)))
                except StopIteration:
                    break
            if not waiting:
                break
            try:
                files.write(await waiting.popleft())
            except APIError as error:
                ended = error
            advance(files.done, files.counts)
            stop.asked = stop.asked or _too_many(files, max_failures)
        ended = ended or (APIError(stop.asked) if stop.asked is not None else None)
    finally:
        stop.asked = stop.asked or "ended"
        for task in waiting:
            task.cancel()  # a call under way is seen to its end by the teacher, which keeps its reply
        await asyncio.gather(*waiting, return_exceptions=True)
        files.save()
        files.close()
    if ended is not None:
        raise APIError(
            f"{ended}; {files.done} records are done, nothing paid for is lost: the same command goes on from there"
        ) from None
    files.finish()
    return files.counts


@asynccontextmanager
async def stopped_by_signals(stop: Stop) -> AsyncIterator[None]:
    """Let SIGINT and SIGTERM ask for a stop, so that calls under way are kept; a second one ends at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def ask(number: signal.Signals) -> None:
        if stop.asked is None:
            stop.asked, stop.signal = f"stopped by {number.name}", int(number)
        elif task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _guarded(record: Record, work: Work[Record], turns: asyncio.Semaphore, stop: Stop) -> Rows:
    """Do one record's work when it is its turn; a record that fails brings a row that says so."""
    async with turns:
        if stop.asked is not None:
            raise APIError(stop.asked)
        try:
            return await work(record)
        except ReplyError as error:
            step, _, reason = str(error).partition(": ")
            row = {"id": record.id, "step": step, "reason": reason or str(error)}  # type: ignore[attr-defined]
            return {FAILED: [row]}


def _too_many(files: _Files, share: float) -> str | None:
    """Return why to stop where too many records failed, else None."""
    failed = files.counts[FAILED]
    if failed < LEAST_FAILURES or failed <= share * files.done:
        return None
    kind, most = next(entry for entry in files.counts.most_common() if entry[0].startswith(f"{FAILED}: "))
    where = files.part(files.outputs[FAILED])
    return f"{failed} of {files.done} records failed, mostly {kind.partition(': ')[2]} ({most}); see {where}"


class _Files:
    """The outputs of a job under way, and its state."""

    def __init__(self, outputs: Mapping[str, Path], fingerprint: dict[str, Any]) -> None:
        assert FAILED in outputs, "a job needs a place for what failed"
        self.outputs, self.fingerprint = dict(outputs), fingerprint
        first = next(iter(self.outputs.values()))
        self.state_path = first.with_name(f".{first.name}.state")
        self.done, self.counts, offsets = self._load()
        self.files: dict[str, IO[bytes]] = {}
        try:
            first.parent.mkdir(parents=True, exist_ok=True)
            for name, path in self.outputs.items():
                file = self.files[name] = self.part(path).open("r+b" if offsets else "wb")
                file.truncate(offsets.get(name, 0))
                file.seek(offsets.get(name, 0))
        except OSError as error:
            raise RecordError(f"{first.parent}: cannot be written ({error.strerror}); choose another folder") from None
        self.saved = time.monotonic()

    def write(self, rows: Rows) -> None:
        """Append one record's rows, and now and then the state."""
        for name, lines in rows.items():
            for row in lines:
                self.files[name].write(jsonl.dumps(row).encode() + b"\n")
                self.counts[name] += 1
                if "reason" in row:
                    self.counts[f"{name}: {row.get('step', '')}: {kind(row['reason'])}"] += 1
        self.done += 1
        if time.monotonic() - self.saved > STATE_SECONDS:
            self.save()

    def save(self) -> None:
        """Flush the outputs to the disk, then the state that speaks of them."""
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

    def close(self) -> None:
        """Close the outputs."""
        for file in self.files.values():
            file.close()

    def finish(self) -> None:
        """Put the outputs in place, the first one last: where it is, all are."""
        for path in reversed(self.outputs.values()):
            if self.part(path).exists():  # not one that an earlier, killed finish has put in place
                os.replace(self.part(path), path)
        self.state_path.unlink()

    def _load(self) -> tuple[int, Counter[str], dict[str, int]]:
        """Return (records done, counts, length of each output) of an unfinished job, or those of a new one."""
        if not self.state_path.exists():
            return 0, Counter(), {}
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            before, offsets = state["fingerprint"], state["offsets"]
            done, counts = int(state["done"]), Counter(state["counts"])
            whole = all(self._whole(path, offsets[name]) for name, path in self.outputs.items())
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
        return (done, counts, offsets) if whole else (0, Counter(), {})

    def _whole(self, path: Path, length: int) -> bool:
        """True where an output is there as far as the state says, unfinished or (after a killed finish) in place."""
        part = self.part(path)
        if not part.exists() and path.exists() and path.stat().st_size == length:
            os.replace(path, part)  # the finish that put it in place was killed before its end: it is done again
        return part.exists() and part.stat().st_size >= length

    @staticmethod
    def part(path: Path) -> Path:
        """Return the name an output has while the job runs."""
        return path.with_name(f".{path.name}.part")
