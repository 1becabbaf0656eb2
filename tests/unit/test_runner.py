"""Jobs over a stream of records: order, resuming, failures, stopping, memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import runner
from lite_huatuo.errors import APIError, RecordError, ReplyError

NAMES = ("", "extra", "failed")


@dataclass(frozen=True)
class Thing:
    id: str


def things(count: int) -> list[Thing]:
    return [Thing(f"t{number:05}") for number in range(count)]


def paths(folder: Path) -> dict[str, Path]:
    return {name: folder / f"out{'.' * bool(name)}{name}.jsonl" for name in NAMES}


async def work(thing: Thing) -> runner.Rows:
    """Take longer for some than for those that come after; every seventh has an extra row, every ninth fails."""
    number = int(thing.id[1:])
    await asyncio.sleep(0.001 * (number * 7 % 5))
    if number % 9 == 8:
        raise ReplyError(f"step.{number % 2}: broken: thing {number}")
    rows: runner.Rows = {"": [{"id": thing.id}, {"id": thing.id, "again": True}]}
    return {**rows, "extra": [{"id": thing.id, "é": "\u2028"}]} if number % 7 == 0 else rows


def do(
    folder: Path, records: Iterable[Thing], what: Callable[[Thing], Awaitable[runner.Rows]] = work, **options: Any
) -> Counter[str]:
    options = {"fingerprint": {"job": "test"}, "concurrency": 8, "max_failures": 0.5, **options}
    return asyncio.run(runner.run(records, what, paths(folder), **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted run over 100 things."""
    folder = tmp_path_factory.mktemp("whole")
    do(folder, things(100))
    return contents(folder)


@pytest.mark.parametrize("concurrency", [1, 3, 500])
def test_outputs_are_in_the_order_of_the_input(concurrency: int, tmp_path: Path, whole: dict[str, bytes]) -> None:
    counts = do(tmp_path, things(100), concurrency=concurrency)
    assert contents(tmp_path) == whole
    assert set(whole) == {"out.jsonl", "out.extra.jsonl", "out.failed.jsonl"}, "no state is left"
    ids = [json.loads(line)["id"] for line in whole["out.jsonl"].decode().split("\n")[:-1]]
    assert ids == sorted(ids)
    failed = [json.loads(line) for line in whole["out.failed.jsonl"].decode().split("\n")[:-1]]
    assert failed[0] == {"id": "t00008", "step": "step.0", "reason": "broken: thing 8"}
    assert counts[""] == 2 * 89
    assert counts["failed"] == len(failed) == 11
    assert counts["failed: step.0: broken"] + counts["failed: step.1: broken"] == 11


@pytest.mark.parametrize("at", [0, 1, 40, 99])
@pytest.mark.parametrize("error", [APIError("no more money"), RuntimeError("a bug"), asyncio.CancelledError()])
def test_goes_on_where_it_ended(at: int, error: BaseException, tmp_path: Path, whole: dict[str, bytes]) -> None:
    async def until(thing: Thing) -> runner.Rows:
        if int(thing.id[1:]) == at:
            raise error
        return await work(thing)

    with pytest.raises(type(error)):
        do(tmp_path, things(100), until)
    assert set(contents(tmp_path)) == {".out.jsonl.state", *(f".{path.name}.part" for path in paths(tmp_path).values())}
    state = json.loads((tmp_path / ".out.jsonl.state").read_text())
    assert state["done"] == at
    asked: list[str] = []

    async def noted(thing: Thing) -> runner.Rows:
        asked.append(thing.id)
        return await work(thing)

    counts = do(tmp_path, things(100), noted)
    assert contents(tmp_path) == whole
    assert (asked[0], len(asked)) == (f"t{at:05}", 100 - at)
    assert counts["failed"] == 11, "the counts of the first part are kept"


def test_rows_after_the_state_are_cut_off(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """A kill comes between rows and state: what the state does not speak of is written again."""
    with pytest.raises(APIError, match=r"stop \(50 records are done"):
        do(tmp_path, things(100), stopping_at(50))
    for path in paths(tmp_path).values():
        with runner.part(path).open("ab") as file:
            file.write(b'{"id": "t00050"}\n{"id": "t000')
    do(tmp_path, things(100))
    assert contents(tmp_path) == whole


def stopping_at(number: int) -> Callable[[Thing], Awaitable[runner.Rows]]:
    async def until(thing: Thing) -> runner.Rows:
        if int(thing.id[1:]) == number:
            raise APIError("stop")
        return await work(thing)

    return until


def test_an_output_shorter_than_the_state_says_begins_anew(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(APIError):
        do(tmp_path, things(100), stopping_at(50))
    part = runner.part(tmp_path / "out.jsonl")
    part.write_bytes(part.read_bytes()[:-3])
    do(tmp_path, things(100))
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("moment", range(4))
def test_a_finish_killed_half_way(
    moment: int, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill at each of the renames and at the removal of the state; nothing is asked again."""
    calls = 0

    def killed(*what: Any) -> None:
        nonlocal calls
        if calls == moment:
            raise KeyboardInterrupt
        calls += 1
        real(*what)

    def removed(path: Path, **options: bool) -> None:
        if path.suffix == ".state":
            killed(path)
        remove(path, **options)  # what the lock leaves

    real, remove = os.replace, Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(runner.jsonl, "write_text", lambda path, text: path.write_text(text))  # no rename of its own
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", removed)
        with pytest.raises(KeyboardInterrupt):
            do(tmp_path, things(100))
    assert (tmp_path / "out.jsonl").exists() == (moment == 3), "the output comes last"

    async def never(thing: Thing) -> runner.Rows:
        raise AssertionError("asked again")

    do(tmp_path, things(100), never)
    assert contents(tmp_path) == whole


def test_a_job_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(APIError):
        do(tmp_path, things(100), stopping_at(5))
    before = contents(tmp_path)
    with pytest.raises(RecordError, match=r"other settings \(job, seed\) .*--overwrite"):
        do(tmp_path, things(100), fingerprint={"job": "another", "seed": 1})
    assert contents(tmp_path) == before, "what the other job has is untouched"
    runner.forget(paths(tmp_path))
    assert contents(tmp_path) == {}


def test_outputs_that_another_job_writes_are_refused(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """One with a request store of its own, so that nothing else keeps the two apart."""

    async def meanwhile(thing: Thing) -> runner.Rows:
        if thing.id == "t00050":
            with pytest.raises(RecordError, match=rf"out\.jsonl: in use by data test, process {os.getpid()} on"):
                await runner.run(things(3), work, paths(tmp_path), fingerprint={"job": "test"}, concurrency=8)
            with pytest.raises(RecordError, match="in use by data test"):
                runner.forget(paths(tmp_path))
        return await work(thing)

    do(tmp_path, things(100), meanwhile)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("text", ["", "[]", '{"fingerprint": {}}', '{"fingerprint": 3, "offsets": {}, "done": "x"}'])
def test_a_damaged_state_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.state").write_text(text)
    with pytest.raises(RecordError, match="damaged; begin again with --overwrite"):
        do(tmp_path, things(3))


def test_too_many_failures_stop_and_are_asked_again(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    async def broken(thing: Thing) -> runner.Rows:
        asked[thing.id] += 1
        await asyncio.sleep(0)
        if int(thing.id[1:]) % 4 == 0 and not mended:
            raise ReplyError("step: too hard: really")
        return {"": [{"id": thing.id}]}

    mended = False
    with pytest.raises(
        APIError,
        match=r"^20 of 77 records failed, mostly step: too hard \(20\); the last: too hard: really; .*--max-failures",
    ):
        do(tmp_path, things(4000), broken, max_failures=0.1)
    assert len(asked) < 400, "stopped soon"
    assert (tmp_path / ".out.failed.jsonl.part").read_text().count("too hard") == 20
    mended = True
    assert do(tmp_path, things(4000), broken, max_failures=0.1) == {"": 4000}


@pytest.mark.parametrize(("count", "share", "stops"), [(30, 0.3, False), (30, 0.24, True), (3, 0.05, False)])
def test_the_failure_budget_is_a_share(count: int, share: float, stops: bool, tmp_path: Path) -> None:
    """Of 4 records each, one fails; fewer than LEAST_FAILURES never stop a job that got anywhere."""

    async def quarter(thing: Thing) -> runner.Rows:
        if int(thing.id[1:]) % 4 == 3:
            raise ReplyError("step: no")
        return {"": [{"id": thing.id}]}

    if stops:
        with pytest.raises(APIError, match=r"^20 of 80 records failed"):
            do(tmp_path, things(4 * count), quarter, max_failures=share)
    else:
        assert do(tmp_path, things(4 * count), quarter, max_failures=share)["failed"] == count


@pytest.mark.parametrize(("share", "stops"), [(0.05, True), (1.0, False)])
def test_a_small_job_of_which_nothing_came_is_no_success(share: float, stops: bool, tmp_path: Path) -> None:
    async def broken(thing: Thing) -> runner.Rows:
        raise ReplyError("step: no connection: at all")

    if stops:
        with pytest.raises(APIError, match=r"^3 of 3 records failed, mostly step: no connection \(3\)"):
            do(tmp_path, things(3), broken, max_failures=share)
        assert not (tmp_path / "out.jsonl").exists()
    else:
        assert do(tmp_path, things(3), broken, max_failures=share)["failed"] == 3


def test_a_stop_ends_at_once_and_goes_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    stop = runner.Stop()

    async def slow(thing: Thing) -> runner.Rows:
        if thing.id == "t00030":
            asyncio.get_running_loop().call_later(0.01, stop.ask, "enough")
            await asyncio.sleep(3600)
        return await work(thing)

    with pytest.raises(APIError, match=r"^enough \(30 records are done; the same command goes on after them\)$"):
        do(tmp_path, things(100), slow, stop=stop)
    do(tmp_path, things(100))
    assert contents(tmp_path) == whole


def test_signals_ask_once_and_end_at_the_second(tmp_path: Path) -> None:
    async def main() -> tuple[str | None, int | None, bool]:
        stop = runner.Stop()
        try:
            async with runner.stopped_by_signals(stop):
                os.kill(os.getpid(), signal.SIGTERM)
                await stop.heard.wait()
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return stop.asked, stop.signal, True
        return stop.asked, stop.signal, False

    assert asyncio.run(main()) == ("stopped by SIGTERM", 15, True)


def test_few_records_are_held_at_one_time(tmp_path: Path) -> None:
    """However many there are, and even if the first one takes longest: 17 times the concurrency at most."""
    taken = done = most = running = most_running = 0
    released = asyncio.Event()

    def stream() -> Iterator[Thing]:
        nonlocal taken
        for thing in things(3000):
            taken += 1
            yield thing

    async def counted(thing: Thing) -> runner.Rows:
        nonlocal running, most_running, most
        running += 1
        most_running = max(most_running, running)
        if thing.id == "t00000":
            await released.wait()
        await asyncio.sleep(0)
        if thing.id == "t00067":
            released.set()  # nothing was written before this one was done
        running -= 1
        return {"": [{"id": thing.id}]}

    def advance(number: int, _: Counter[str]) -> None:
        nonlocal done, most
        most = max(most, taken - done)
        done = number

    do(tmp_path, stream(), counted, concurrency=4, advance=advance)
    assert most_running == 4
    assert most <= 4 * (1 + runner.AHEAD) + 1
    assert done == taken == 3000


def test_an_error_of_the_input_is_told_and_work_is_kept(tmp_path: Path) -> None:
    def stream() -> Iterator[Thing]:
        yield from things(500)
        raise RecordError("in.jsonl:501: broken")

    with pytest.raises(RecordError, match=r"in\.jsonl:501"):
        do(tmp_path, stream())
    assert json.loads((tmp_path / ".out.jsonl.state").read_text())["done"] > 300


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        do(tmp_path / "file", things(3))
