"""The request store: durable, counted, one writer, many readers, and clear about damage."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import store as store_module
from lite_huatuo.data.profile import Usage
from lite_huatuo.data.store import LedgerRow, Reply, Store, Wave, ledger
from lite_huatuo.errors import RecordError

REPLY = Reply("麻疹\u2028\0 done", "stop", Usage(input=100, cached=40, written=10, output=7), 0.25)
OWNER = "m at http://127.0.0.1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "requests.sqlite"


def use(path: Path, work: Callable[[Store], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        with Store(path) as store:
            return await work(store)

    return asyncio.run(run())


async def keep(store: Store, key: str, step: str = "first", model: str = "m", reply: Reply = REPLY) -> None:
    call = store.call(key, step, model, 1.0)
    store.sent(call)
    await store.finish(call, reply)


def test_a_kept_reply_is_found_again_as_it_was(path: Path) -> None:
    use(path, lambda store: keep(store, "k"))
    with Store(path) as store:
        assert (store.get("k"), store.get("other")) == (REPLY, None)


def test_the_ledger_counts_by_step_and_model_while_a_run_writes(path: Path) -> None:
    async def work(store: Store) -> list[LedgerRow]:
        await keep(store, "a")
        await keep(store, "b")
        store.failed(failing := store.call("c", "first", "m", 1.0), "never sent", 0.0)  # no row: nothing to change
        store.sent(failing)
        store.failed(failing, "HTTP 500", 0.0)
        store.sent(slow := store.call("d", "first", "m", 1.0))
        store.failed(slow, "no answer within 5 seconds", 1.0)
        store.sent(store.call("e", "verify", "n", 2.0))
        await keep(store, "f", "verify", "m")
        return ledger(path)

    assert use(path, work) == [
        LedgerRow("first", "m", 2, 2, 0, 200, 80, 14, 1.5),
        LedgerRow("verify", "m", 1, 0, 0, 100, 40, 7, 0.25),
        LedgerRow("verify", "n", 0, 0, 1, 0, 0, 0, 2.0),
    ]
    with Store(path) as store:
        assert store.budget.spent == pytest.approx(3.75)  # what an earlier run left, lost calls at their worst case


def test_call_numbers_go_on_after_reopening(path: Path) -> None:
    async def work(store: Store) -> int:
        call = store.call("k", "s", "m", 1.0)
        store.sent(call)
        return call.id

    assert [use(path, work) for _ in range(3)] == [1, 2, 3]


def test_replies_of_one_moment_share_commits_and_each_commit_is_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    connect = store_module._connect

    def watched(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        assert connection.execute("pragma synchronous").fetchone() == (2,)  # FULL: every commit is synced
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(store_module, "_connect", watched)

    async def work(store: Store) -> None:
        await asyncio.gather(*(keep(store, f"k{number}") for number in range(500)))

    use(path, work)
    assert sum(row.calls for row in ledger(path)) == 500
    assert 1 <= statements.count("COMMIT") < 250


def test_a_second_run_on_the_same_store_is_refused_and_told(path: Path) -> None:
    with Store(path), pytest.raises(RecordError, match=r"another run is using this store; wait for it, or name"):
        Store(path)
    Store(path).close()
    code = f"import pathlib; from lite_huatuo.data.store import Store; Store(pathlib.Path({str(path)!r}))"
    with Store(path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "another run is using this store" in done.stderr


def test_waves_are_handed_to_their_owner_once_until_they_are_closed(path: Path) -> None:
    async def open_two(store: Store) -> None:
        calls = {key: store.call(key, "s", "m", 0.5) for key in "ab"}
        await store.open_wave(Wave("w", OWNER, calls))
        await store.name_batch("w", "batch_7")
        await store.finish(calls["a"], REPLY)
        await store.open_wave(Wave("v", "another", {"c": store.call("c", "s", "m", 0.5)}))
        assert store.take_waves(OWNER) == []  # this process has it already

    async def take_up(store: Store) -> None:
        (wave,) = store.take_waves(OWNER)
        assert (wave.name, wave.batch, list(wave.calls)) == ("w", "batch_7", ["b"])
        assert wave.calls["b"].worst == 0.5
        assert store.take_waves(OWNER) == []
        await store.close_wave("w")

    use(path, open_two)
    use(path, take_up)
    with Store(path) as store:
        assert store.take_waves(OWNER) == []
        assert len(store.take_waves("another")) == 1


@pytest.mark.parametrize("content", [b"no database " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)
    for enter in (Store, ledger):
        with pytest.raises(RecordError, match=r"s\.db: damaged, or no request store .+ move it away"):
            enter(path)
    assert path.read_bytes() == content


def test_damage_in_the_middle_is_told_when_it_is_met(path: Path) -> None:
    async def fill(store: Store) -> None:
        await asyncio.gather(*(keep(store, f"{number:064d}") for number in range(300)))

    use(path, fill)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(RecordError, match="damaged, or no request store"):
        Store(path)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as other:
        other.execute("create table mine (a)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(RecordError, match="another program's database"):
        Store(path)
    assert path.read_bytes() == before


def test_a_place_that_cannot_hold_a_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be used as a request store"):
        Store(tmp_path / "file" / "s.db")
    with pytest.raises(RecordError, match="no such store; it is made by the first run"):
        ledger(tmp_path / "none.db")


def test_a_write_that_fails_is_told_to_whoever_waits(path: Path) -> None:
    async def work(store: Store) -> None:
        await keep(store, "a")
        with sqlite3.connect(path) as other:
            other.execute("drop table replies")
        other.close()
        for key in ("b", "c"):  # and nothing is taken for kept from then on
            with pytest.raises(RecordError, match="cannot be used as a request store"):
                await keep(store, key)

    use(path, work)


ODD = {
    "half a character": (Reply("x\ud800", "stop", Usage(), 0.0), "UnicodeEncodeError"),
    "a huge number": (Reply("x", "stop", Usage(input=10**30), 0.0), "OverflowError"),
    "no number": (Reply("x", "stop", Usage(), float("nan")), "IntegrityError"),
    "another type": (Reply("x", {"a": 1}, Usage(), 0.0), "Error"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_written_fails_alone(name: str, path: Path) -> None:
    """Not the writes of the same moment, and nobody waits for ever."""
    reply, error = ODD[name]

    async def work(store: Store) -> list[Any]:
        keeping = [keep(store, f"k{number}", reply=reply if number == 3 else REPLY) for number in range(6)]
        ended = await asyncio.gather(*keeping, return_exceptions=True)
        await keep(store, "later")
        return ended

    ended = use(path, work)
    assert [type(end) for end in ended] == [type(None)] * 3 + [RecordError] + [type(None)] * 2
    assert error in str(ended[3])
    with Store(path) as store:
        assert [store.get(f"k{number}") for number in range(6)] == [REPLY] * 3 + [None] + [REPLY] * 2
        assert store.get("later") == REPLY
    assert sum(row.unanswered for row in ledger(path)) == 1


def test_a_bug_while_writing_is_told_to_whoever_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(sqlite3.Connection):
        def __enter__(self) -> Any:
            raise MemoryError

    monkeypatch.setattr(store_module.sqlite3, "connect", functools.partial(sqlite3.connect, factory=Broken))

    async def work(store: Store) -> None:
        for key in "ab":
            with pytest.raises(RecordError, match=r"a write failed \(MemoryError"):
                await keep(store, key)

    use(path, work)


def test_a_failure_told_with_half_a_character_is_kept(path: Path) -> None:
    async def work(store: Store) -> None:
        store.sent(call := store.call("k", "s", "m", 1.0))
        store.failed(call, "HTTP 500 (x\ud83d)", 0.0)
        await keep(store, "other")

    use(path, work)
    assert sum(row.failed for row in ledger(path)) == 1


def test_a_reply_that_was_changed_on_the_disk_is_not_used(path: Path) -> None:
    use(path, lambda store: keep(store, "k"))
    with sqlite3.connect(path) as connection:
        connection.execute("update replies set text = replace(text, 'done', 'gone')")
    connection.close()
    with Store(path) as store, pytest.raises(RecordError, match="the reply to request k was changed on the disk"):
        store.get("k")


def test_a_store_from_before_checksums_is_still_read(path: Path) -> None:
    use(path, lambda store: keep(store, "old"))
    with sqlite3.connect(path) as connection:
        connection.execute("alter table replies drop column digest")
    connection.close()
    use(path, lambda store: keep(store, "new"))
    with Store(path) as store:
        assert (store.get("old"), store.get("new")) == (REPLY, REPLY)
