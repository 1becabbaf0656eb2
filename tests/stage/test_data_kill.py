"""kill -9 at random moments of a search: the files equal the uninterrupted ones, and little is asked twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import store
from tests import scripted_teacher
from tests.scripted_server import ScriptedServer
from tests.stage import data_jobs
from tests.stage.data_jobs import KEY, KEY_ENV, STORE, command, job, total

CONCURRENCY = 16
LATENCY = 0.05
ON_THE_WAY = 0.1  # seconds from an answer to its being kept, on a busy machine
OPTIONS = ("--label-guided", "--max-failures", "1", "--concurrency", CONCURRENCY)


class Watched:
    """Replies as the scripted teacher does, and knows how many calls are in flight: under way at the server, or
    answered so shortly before that the client cannot have kept the answer for certain."""

    def __init__(self) -> None:
        self.answered: list[float] = []

    def __call__(self, request: dict[str, Any]) -> str:
        self.answered.append(time.monotonic())
        return scripted_teacher.reply(request)

    def in_flight(self, server: ScriptedServer, moment: float) -> int:
        """Return how many calls were in flight at a moment that has just passed."""
        return server.now + sum(answered > moment - ON_THE_WAY for answered in self.answered[-20 * CONCURRENCY :])


def kill(words: list[str], server: ScriptedServer, calls: int, wait: float) -> float | None:
    """Start or go on, kill after `calls` more calls and a moment; return when it was killed, None if it had ended."""
    process, before = data_jobs.start(words), total(server)
    while total(server) - before < calls and process.poll() is None:
        time.sleep(0.001)
    time.sleep(wait)
    moment = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return moment if process.returncode == -signal.SIGKILL else None


@pytest.mark.parametrize(
    ("problems", "kills"), [(60, 3), pytest.param(200, 24, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_killed_at_random_moments(problems: int, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    data_jobs.write(tmp_path / "in.jsonl", data_jobs.problems(problems))
    with ScriptedServer(scripted_teacher.reply) as server:
        assert command(*job("search", tmp_path / "whole", server.url, *OPTIONS)).code == 0
        needed = total(server)
    draw, reply, in_flight, done = random.Random(problems), Watched(), 0, 0
    with ScriptedServer(reply, latency=LATENCY) as server:
        words = job("search", tmp_path / "killed", server.url, *OPTIONS)
        while done < kills:
            calls = draw.randint(0, 2 * needed // (kills + 2) - 1) if draw.random() < 0.9 else 0
            moment = kill(words, server, calls, draw.uniform(0.0, 2 * LATENCY))
            assert moment is not None, "it ended before it was killed often enough: make the job longer"
            done, in_flight = done + 1, in_flight + reply.in_flight(server, moment)
        ended = command(*words)
        assert ended.code == 0, ended.err
        repeated = total(server) - len(server.calls)
        assert len(server.calls) == needed
    print(f"\n{kills} kills, {needed} calls, {repeated} of them repeated, {in_flight} in flight at the kills")
    assert data_jobs.files(tmp_path / "killed") == data_jobs.files(tmp_path / "whole")
    assert repeated <= in_flight
    ledger = store.ledger(tmp_path / "killed" / STORE)
    assert sum(row.calls for row in ledger) == needed
    lost = sum(row.unanswered for row in ledger)  # noted before it is sent: some never reached the server
    assert lost <= kills * int(CONCURRENCY), "what was lost is in the ledger, at its worst price"
