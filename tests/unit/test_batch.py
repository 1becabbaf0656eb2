"""Batch jobs against a scripted server: one job a wave, faults line by line, jobs taken up again after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import batch
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.store import Store, ledger
from tests.scripted_server import ScriptedServer, seeded_faults
from tests.teaching import KEY, echo, first_fails, outcomes, profile_of, question, use

HALF = "prices={input: 1000.0, output: 1000.0, batch_discount: 0.5}"
OPTIONS: dict[str, Any] = {"batch": True, "quiet": 0.05, "poll": 0.01, "retries": Retries(tries=6, first=0.01)}
TWENTY = [question(f"q{number}") for number in range(20)]
UPPER = [f"Q{number}" for number in range(20)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)


def ask(folder: Path, server: ScriptedServer, requests: list[Any], **options: Any) -> list[str]:
    chosen = {**OPTIONS, **options}
    return use(folder, profile_of(server, HALF), lambda teacher: outcomes(teacher, requests), **chosen)


def jobs(server: ScriptedServer) -> int:
    return server.paths["POST /v1/batches"]


def test_what_is_asked_at_one_moment_is_one_job_at_the_batch_price(tmp_path: Path) -> None:
    with ScriptedServer(echo, batch_polls=3) as server:
        for _ in range(2):
            assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (1, 20)
        assert server.paths["POST /v1/chat/completions"] == 0
        assert server.keys == {f"Bearer {KEY}"}
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (20, 0, 0)
    assert row.dollars == pytest.approx((row.input + row.output) * 0.0005)


def test_a_wave_waits_for_the_one_before_it_and_batch_equals_direct(tmp_path: Path) -> None:
    async def chains(teacher: Any) -> list[str]:
        async def chain(number: int) -> str:
            first = await teacher.ask(question(f"first {number}"))
            return await teacher.ask(question(f"then {first}"))

        return list(await asyncio.gather(*(chain(number) for number in range(10))))

    with ScriptedServer(echo) as server:
        said = use(tmp_path, profile_of(server), chains, **OPTIONS)
        assert said == [f"THEN FIRST {number}" for number in range(10)]
        assert jobs(server) == 2
        replayed = use(tmp_path, profile_of(server), chains)  # the store is the same for both ways
        assert (replayed, server.paths["POST /v1/chat/completions"]) == (said, 0)


def test_lines_that_fail_go_into_the_next_job(tmp_path: Path) -> None:
    with ScriptedServer(echo, faults=seeded_faults(2, 0.4, ("429", "500", "hang"))) as server:
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert 1 < jobs(server) <= 6
        sent = sum(server.calls.values())
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (20, sent - 20, 0)


def test_a_line_that_always_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    faults = lambda request, attempt: "500" if request["messages"][0]["content"] == "q7" else None  # noqa: E731
    with ScriptedServer(echo, faults=faults) as server:
        said = ask(tmp_path, server, TWENTY)
        assert said[7] == "ReplyError: test: 6 tries failed; the last: HTTP 500 (scripted 500)"
        assert said[:7] + said[8:] == UPPER[:7] + UPPER[8:]
        assert jobs(server) == 6


@pytest.mark.parametrize("kind", ["empty", "refusal", "400"])
def test_a_line_without_an_answer_fails_alone_and_is_not_repeated(tmp_path: Path, kind: str) -> None:
    faults = lambda request, attempt: kind if request["messages"][0]["content"] == "q7" else None  # noqa: E731
    with ScriptedServer(echo, faults=faults) as server:
        said = ask(tmp_path, server, TWENTY)
        assert said[7].startswith("ReplyError: " if kind == "400" else "Unusable: ")
        assert said[:7] + said[8:] == UPPER[:7] + UPPER[8:]
        assert jobs(server) == 1


def test_a_wrong_key_in_a_line_stops_all(tmp_path: Path) -> None:
    with ScriptedServer(echo, faults=lambda request, attempt: "401") as server:
        said = ask(tmp_path, server, TWENTY)
        assert all("APIError" in text and "CANARY_KEY" in text for text in said)
        assert jobs(server) == 1


def test_an_expired_job_keeps_what_was_run_and_sends_the_rest_again(tmp_path: Path) -> None:
    fate = lambda number: "expired" if number == 0 else "completed"  # noqa: E731
    with ScriptedServer(echo, batch_fate=fate) as server:
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (2, 20)


def test_a_job_refused_for_a_full_queue_is_sent_again(tmp_path: Path) -> None:
    fate = lambda number: "failed:token_limit_exceeded" if number == 0 else "completed"  # noqa: E731
    with ScriptedServer(echo, batch_fate=fate) as server:
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (2, 20)


def test_a_job_refused_for_good_stops_all(tmp_path: Path) -> None:
    with ScriptedServer(echo, batch_fate=lambda number: "failed:invalid_model") as server:
        said = ask(tmp_path, server, TWENTY)
        assert all(text.startswith("APIError: the batch job batch_0 was refused (invalid_model: ") for text in said)
        assert jobs(server) == 1
    row, = ledger(tmp_path / "store.db")
    assert (row.failed, row.unanswered, row.dollars) == (20, 0, 0.0)


def test_files_are_cut_to_the_endpoints_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_LINES", 7)
    with ScriptedServer(echo) as server:
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert jobs(server) == 3


def test_the_budget_holds_for_batches(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        said = ask(tmp_path, server, [question(f"question number {number}" * 10) for number in range(20)], budget=0.3)
        stopped = [text for text in said if text.startswith("APIError: the budget of $0.30 is spent")]
        assert 0 < len(stopped) < 20
    assert 0 < sum(row.dollars for row in ledger(tmp_path / "store.db")) <= 0.3


CHILD = """
import sys
from pathlib import Path
from tests.unit.test_batch import TWENTY, ask
class Server: url = sys.argv[1]
ask(Path(sys.argv[2]), Server, TWENTY)
"""


def kill_when(server: ScriptedServer, folder: Path, reached: Any) -> None:
    """Run the twenty requests in a process of their own and kill it once `reached()`."""
    command = [sys.executable, "-c", CHILD, server.url, str(folder)]
    with subprocess.Popen(command, env={**os.environ, "CANARY_KEY": KEY}) as child:
        until = time.monotonic() + 60
        while not reached() and time.monotonic() < until:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


def test_a_run_killed_while_it_waits_takes_its_job_up_again(tmp_path: Path) -> None:
    with ScriptedServer(echo, batch_polls=10**9) as server:
        kill_when(server, tmp_path, lambda: server.paths["GET /v1/batches/batch_0"] > 2)
        server.batch_polls = 1
        more = [*TWENTY, question("new")]
        assert ask(tmp_path, server, more, budget=30.0) == [*UPPER, "NEW"]
        assert (jobs(server), sum(server.calls.values())) == (2, 21)
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (21, 0, 0)
    with Store(tmp_path / "store.db") as store:
        assert store.take_waves(f"default at {server.url}") == []
        assert store.budget.spent == pytest.approx(row.dollars)


def test_replies_that_nobody_asks_for_any_more_are_kept_all_the_same(tmp_path: Path) -> None:
    with ScriptedServer(echo, batch_polls=10**9) as server:
        kill_when(server, tmp_path, lambda: server.paths["GET /v1/batches/batch_0"] > 2)
        server.batch_polls = 1
        assert ask(tmp_path, server, TWENTY[:1]) == UPPER[:1]
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (1, 20)


@pytest.mark.parametrize("made", [True, False], ids=["the job was made", "it was not"])
def test_a_run_killed_before_it_knew_its_job_finds_it_or_sends_again(
    tmp_path: Path, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the creation never comes: once the job exists, once it does not."""

    async def lost(self: Any, wave: Any, text: str) -> str:
        if made:
            await real(self, wave, text)
        reached.set()
        raise asyncio.CancelledError  # as at a kill: nothing after this runs

    real, reached = batch.Batches._upload, asyncio.Event()
    with ScriptedServer(echo) as server:
        with monkeypatch.context() as patched:
            patched.setattr(batch.Batches, "_upload", lost)

            async def give_up(teacher: Any) -> None:
                asking = asyncio.ensure_future(outcomes(teacher, TWENTY))
                await reached.wait()
                asking.cancel()

            use(tmp_path, profile_of(server, HALF), give_up, **OPTIONS)
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (1, 20)
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (20, 0 if made else 20, 0)


def test_an_endpoint_out_of_reach_while_waiting_loses_nothing(tmp_path: Path) -> None:
    with ScriptedServer(echo, batch_polls=10**9) as server:

        async def cut_off(teacher: Any) -> list[str]:
            asking = asyncio.ensure_future(outcomes(teacher, TWENTY))
            while server.paths["GET /v1/batches/batch_0"] < 2:
                await asyncio.sleep(0.01)
            server.down = True
            return await asking

        said = use(tmp_path, profile_of(server, HALF), cut_off, **OPTIONS)
        assert all("APIError: a batch job is out of reach" in text and "take it up" in text for text in said)
        server.down, server.batch_polls = False, 1
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (1, 20)


def test_a_job_is_taken_up_by_its_own_model_only(tmp_path: Path) -> None:
    with ScriptedServer(echo, batch_polls=10**9) as server, ScriptedServer(echo) as other:
        kill_when(server, tmp_path, lambda: server.paths["GET /v1/batches/batch_0"] > 2)
        assert ask(tmp_path, other, [question("new")]) == ["NEW"]
        assert other.paths["GET /v1/batches/batch_0"] == 1  # its own
        server.batch_polls = 1
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert jobs(server) == 1


def test_a_lost_answer_to_the_creation_makes_no_second_job(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        server.drop_first = "POST /v1/batches"
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), len(server.batches)) == (1, 1)


def test_a_line_that_passes_at_the_second_try_is_asked_twice(tmp_path: Path) -> None:
    with ScriptedServer(echo, faults=first_fails("429")) as server:
        assert ask(tmp_path, server, TWENTY) == UPPER
        assert (jobs(server), sum(server.calls.values())) == (2, 40)
