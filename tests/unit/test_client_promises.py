"""What the teacher promises: a reply is kept and paid once, the budget holds, the key stays where it belongs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from lite_huatuo.data.client import Teacher
from lite_huatuo.data.store import Store, ledger
from lite_huatuo.errors import APIError, RecordError
from tests.scripted_server import ScriptedServer, seeded_faults
from tests.teaching import KEY, Gate, echo, outcomes, profile_of, question, use


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)


def test_the_budget_is_never_passed_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    requests = [question(f"question {number}" * 5) for number in range(40)]
    with ScriptedServer(echo, latency=0.01, faults=seeded_faults(3, 0.2, ("cut", "500"))) as server:
        said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, requests), budget=1.0)
        spent = sum(row.dollars for row in ledger(tmp_path / "store.db"))
        stopped = [text for text in said if text.startswith("APIError")]
        assert 0.6 < spent <= 1.0  # used up but for less than one worst case
        assert 0 < len(stopped) < 40
        assert "the budget of $1.00 is spent" in stopped[0]
        assert "larger budget to go on" in stopped[0]
        before = sum(server.calls.values())
        again = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, requests), budget=1.0)
        assert sum(server.calls.values()) == before
        assert [a for a, b in zip(again, said, strict=True) if not b.startswith("APIError")] == [
            text for text in said if not text.startswith("APIError")
        ]
        whole = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, requests), budget=100.0)
        assert all(text.startswith("QUESTION") for text in whole)


@pytest.mark.parametrize("client", ["DefaultAioHttpClient", "DefaultAsyncHttpxClient"])
def test_the_key_goes_to_the_base_url_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, client: str
) -> None:
    monkeypatch.setattr(openai, "DefaultAioHttpClient", getattr(openai, client))
    caplog.set_level(logging.DEBUG)
    blab = lambda request: f"your key is {KEY}" if "key" in request["messages"][0]["content"] else "x"  # noqa: E731
    faults = lambda request, attempt: {"go": "307", "bad": "401"}.get(request["messages"][0]["content"])  # noqa: E731
    with ScriptedServer(blab, faults=faults) as server, ScriptedServer(echo) as other:
        server.location = f"{other.url}/chat/completions"
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
        monkeypatch.setenv("OPENAI_ORG_ID", "org-another")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-custom")
        monkeypatch.setenv("HTTP_PROXY", other.url)
        said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, [question("key?")]))
        assert said == ["your key is [key]"]
        for text in ("go", "bad"):
            said += use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, [question(text)]))  # noqa: B023
        assert server.keys == {f"Bearer {KEY}"}
        assert other.paths == {}
        assert os.environ["OPENAI_ORG_ID"] == "org-another"
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY.encode() not in written
    assert KEY not in "".join(said) + caplog.text


def test_a_missing_key_is_told_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANARY_KEY")
    with ScriptedServer(echo) as server:
        with pytest.raises(APIError, match=r"local: no key; set the environment variable CANARY_KEY"):
            use(tmp_path, profile_of(server), lambda teacher: teacher.ask(question("q")))
        assert server.paths == {}


def test_a_call_under_way_is_kept_though_its_asker_is_cancelled(tmp_path: Path) -> None:
    with ScriptedServer(echo, latency=0.3) as server:

        async def leave_early(teacher: Teacher) -> None:
            asking = [asyncio.create_task(teacher.ask(question(f"q{number}"))) for number in range(10)]
            while server.now < 4:
                await asyncio.sleep(0.01)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

        use(tmp_path, profile_of(server, "concurrency=4"), leave_early)
        assert sum(server.calls.values()) == 4
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (4, 0, 0)


def test_no_more_calls_at_once_than_the_profile_allows(tmp_path: Path) -> None:
    requests = [question(f"q{number}") for number in range(300)]
    with Gate(echo) as server:
        server.wanted = 100
        use(tmp_path, profile_of(server, "concurrency=100"), lambda teacher: outcomes(teacher, requests))
        assert server.most == 100


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.teaching import outcomes, profile_of, question, use
class Server: url = sys.argv[1]
requests = [question(f"q{number}") for number in range(60)]
print(use(Path(sys.argv[2]), profile_of(Server, "concurrency=8"), lambda teacher: outcomes(teacher, requests)))
"""


def counted(store: Path) -> tuple[int, int] | None:
    """Return how many calls were answered and how many were not, as the ledger of a run under way knows it."""
    try:
        row, = ledger(store)
    except (RecordError, ValueError):  # not begun yet
        return None
    return row.calls, row.unanswered


def test_kill_9_costs_only_the_calls_under_way(tmp_path: Path) -> None:
    env, store = {**os.environ, "CANARY_KEY": KEY}, tmp_path / "store.db"
    with ScriptedServer(echo) as server:
        sent = lambda: sum(server.calls.values())  # noqa: E731
        for kept, lost in ((5, 8), (25, 16), (45, 24)):
            answered = kept + lost - 8  # what comes later is on the wire until the kill
            server.faults = lambda request, attempt: "hang" if sent() >= answered else None  # noqa: B023
            command = [sys.executable, "-c", CHILD, server.url, str(tmp_path)]
            with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
                while counted(store) != (kept, lost) or server.now != lost:
                    assert child.poll() is None
                    time.sleep(0.005)
                child.send_signal(signal.SIGKILL)
            assert child.returncode == -signal.SIGKILL
        server.faults = lambda request, attempt: None
        said = use(
            tmp_path,
            profile_of(server),
            lambda teacher: outcomes(teacher, [question(f"q{number}") for number in range(60)]),
        )
        assert said == [f"Q{number}" for number in range(60)]
        assert sent() == 60 + 24
    row, = ledger(store)
    assert (row.calls, row.unanswered) == (60, 24)
    assert row.dollars >= 24 * 50 * 0.001  # what was lost counts at its worst case


def test_a_disk_that_does_not_keep_up_holds_new_calls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill can lose are twice as many calls as run at one time: those on the wire, and as many being kept."""
    disk, real = threading.Event(), Store._commit

    def slow(self: Store, writes: list[Any]) -> Any:
        assert disk.wait(300)
        return real(self, writes)

    monkeypatch.setattr(Store, "_commit", slow)

    async def work(teacher: Teacher) -> list[str]:
        asking = asyncio.ensure_future(outcomes(teacher, [question(f"q{number}") for number in range(50)]))
        while sum(server.calls.values()) < 8 or server.now:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # time for more calls, were they not held back
        sent = sum(server.calls.values()), teacher.usage.sent
        disk.set()
        assert sent == (8, 8)
        return await asking

    with ScriptedServer(echo) as server:
        assert use(tmp_path, profile_of(server, "concurrency=4"), work) == [f"Q{number}" for number in range(50)]


def test_the_reply_is_kept_before_it_is_used(tmp_path: Path) -> None:
    async def work(teacher: Teacher) -> None:
        for number in range(20):
            await teacher.ask(question(f"q{number}"))
            assert sum(row.calls for row in ledger(tmp_path / "store.db")) == number + 1

    with ScriptedServer(echo) as server:
        use(tmp_path, profile_of(server), work)


def test_equal_requests_under_way_are_sent_once(tmp_path: Path) -> None:
    async def work(teacher: Teacher) -> tuple[list[str], int]:
        return await outcomes(teacher, [question("same")] * 30), teacher.usage.shared

    with ScriptedServer(echo, latency=0.1) as server:
        said, shared = use(tmp_path, profile_of(server), work)
        assert (said, shared, sum(server.calls.values())) == (["SAME"] * 30, 29, 1)
