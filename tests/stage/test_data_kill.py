"""Jobs that ask models, killed at random moments by SIGKILL, SIGTERM and SIGINT: the files equal the uninterrupted
ones, and little is asked twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import store
from lite_huatuo.prompts.render import templates
from tests import scripted_teacher
from tests.scripted_server import ScriptedServer
from tests.stage import data_jobs, killing
from tests.stage.data_jobs import KEY, KEY_ENV, STORE, command, job, total
from tests.stage.killing import Hit

CONCURRENCY = 16
LATENCY = 0.05
ON_THE_WAY = 0.1  # seconds from an answer to its being kept, on a busy machine
OPTIONS = ("--label-guided", "--max-failures", "1", "--concurrency", CONCURRENCY)


class Watched:
    """Replies as `reply` does, and knows how many calls were in flight at the kills that cannot be caught: under way
    at the server, or answered so shortly before that the client cannot have kept the answer for certain."""

    def __init__(self, reply: Callable[[dict[str, Any]], str]) -> None:
        self.reply, self.answered, self.in_flight = reply, [0.0], 0

    def __call__(self, request: dict[str, Any]) -> str:
        self.answered.append(time.monotonic())
        return self.reply(request)

    def killed(self, server: ScriptedServer, hit: Hit) -> None:
        """Count what was in flight at a kill that has just passed; a signal that is caught loses nothing."""
        if hit.signal == signal.SIGKILL:
            late = sum(answered > hit.moment - ON_THE_WAY for answered in self.answered[-20 * CONCURRENCY :])
            self.in_flight += server.now + late


def kill(
    words: list[str], server: ScriptedServer, reply: Watched, needed: int, kills: int, compare: Callable[[], None]
) -> list[Hit]:
    """Kill a job of `needed` calls so often, after some more calls and a moment each time, and let it end."""
    draw = random.Random(f"{words[:2]} {needed}")

    def again(number: int) -> list[str]:
        assert number == 0, "it ended before it was killed often enough: make the job longer"
        return words

    def ready(number: int) -> Callable[[], bool]:
        calls, before = draw.randint(0, 2 * needed // (kills + 2) - 1), total(server)
        return lambda: total(server) - before >= calls

    return killing.kill_at_random(
        again, lambda number: compare(), ready, rng=draw, count=kills, longest=2 * LATENCY,
        after=lambda hit: reply.killed(server, hit),
    )  # fmt: skip


def same_files(one: Path, other: Path) -> Callable[[], None]:
    def compare() -> None:
        assert data_jobs.files(one) == data_jobs.files(other)

    return compare


def check(hits: list[Hit], server: ScriptedServer, reply: Watched, needed: int, path: Path) -> None:
    """What was asked twice was in flight at a SIGKILL, and the ledger has everything."""
    repeated = total(server) - len(server.calls)
    print(killing.told(hits), f"\n{needed} calls, {repeated} of them repeated, {reply.in_flight} in flight at SIGKILLs")
    assert len(server.calls) == needed
    assert repeated <= reply.in_flight
    ledger = store.ledger(path)
    assert sum(row.calls for row in ledger) == needed
    lost = sum(row.unanswered for row in ledger)  # noted before it is sent: some never reached the server
    assert lost <= sum(hit.signal == signal.SIGKILL for hit in hits) * CONCURRENCY, "it is there at its worst price"


@pytest.mark.parametrize(
    ("problems", "kills"), [(24, 3), pytest.param(400, 50, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_search(problems: int, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    data_jobs.write(tmp_path / "in.jsonl", data_jobs.problems(problems))
    with ScriptedServer(scripted_teacher.reply) as server:
        assert command(*job("search", tmp_path / "whole", server.url, *OPTIONS)).code == 0
        needed = total(server)
    reply = Watched(scripted_teacher.reply)
    with ScriptedServer(reply, latency=LATENCY) as server:
        words = job("search", tmp_path / "killed", server.url, *OPTIONS)
        hits = kill(words, server, reply, needed, kills, same_files(tmp_path / "killed", tmp_path / "whole"))
        check(hits, server, reply, needed, tmp_path / "killed" / STORE)


@pytest.mark.parametrize(
    ("problems", "kills"), [(20, 2), pytest.param(250, 20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_verifier_build(problems: int, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is sampled, another judges its replies."""
    monkeypatch.setenv(KEY_ENV, KEY)
    rows = data_jobs.problems(problems)
    source = data_jobs.write(tmp_path / "in.jsonl", rows)
    truths = {row["question"]: row["ground_truth"] for row in rows}
    openings = tuple(templates(language)["judge_answer"].partition("${")[0] for language in ("en", "zh"))

    def says(request: dict[str, Any]) -> str:
        content = request["messages"][-1]["content"]
        if content.startswith(openings):
            return scripted_teacher.reply(request)
        return f"I think of {truths[content]}." if request["temperature"] < 0.5 else f"No idea {len(content)}."

    reply = Watched(says)
    with ScriptedServer(reply) as server:
        student, judge = (
            data_jobs.profile(tmp_path / name, server.url, name=name, model=name, concurrency=CONCURRENCY)
            for name in ("student", "judge")
        )

        def words(name: str) -> list[str]:
            folder = tmp_path / name
            return [
                "verifier", "build", str(source), "--to", str(folder), "--store", str(folder / STORE),
                "--sample", str(student), "--judge", str(judge), "--temperature", "0.2", "--temperature", "1.0",
            ]  # fmt: skip

        ended = command(*words("whole"))
        assert ended.code == 0, ended.err
        needed = total(server)
        assert needed > 3 * problems
        server.calls.clear()
        server.latency = LATENCY
        hits = kill(words("killed"), server, reply, needed, kills, same_files(tmp_path / "killed", tmp_path / "whole"))
        check(hits, server, reply, needed, tmp_path / "killed" / STORE)


def test_eval_of_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    questions = data_jobs.write(tmp_path / "in.jsonl", data_jobs.questions(40))
    reply = Watched(lambda request: f"The answer is {'ABCDE'[len(request['messages'][-1]['content']) % 5]}.")
    with ScriptedServer(reply, latency=LATENCY) as server:
        profile = data_jobs.profile(tmp_path, server.url, concurrency=4)

        def words(name: str) -> list[str]:
            store = str(tmp_path / f"{name}.sqlite")
            return [
                "eval", f"profile:{profile}", "--benchmark", f"medqa={questions}", "--to", str(tmp_path / name),
                "--store", store, "--temperature", "0.5", "--seeds", "2",
            ]  # fmt: skip

        def compare() -> None:
            whole, killed = (
                (sorted(data_jobs.rows(tmp_path / name / "medqa.jsonl"), key=lambda row: (row["id"], row["run"])),
                 (tmp_path / name / "report.json").read_bytes())
                for name in ("whole", "killed")
            )  # fmt: skip
            assert killed == whole

        ended = command(*words("whole"))
        assert ended.code == 0, ended.err
        needed = total(server)
        server.calls.clear()
        hits = kill(words("killed"), server, reply, needed, 2, compare)
        check(hits, server, reply, needed, tmp_path / "killed.sqlite")
