"""Jobs that ask models, killed at random moments by SIGKILL, SIGTERM and SIGINT: the files equal the uninterrupted
ones, and little is asked twice."""

from __future__ import annotations

import http.client
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
SLOW = 0.5  # from when a kill is due: however late it comes on a busy machine, there is work left to kill
OPTIONS = ("--label-guided", "--max-failures", "1", "--concurrency", CONCURRENCY)


class Draw(random.Random):
    """Draws SIGKILL first, and every signal as often as the others; where it is not `early`, no kill that does not
    wait for the work to begin."""

    def __init__(self, seed: str, *, early: bool) -> None:
        super().__init__(seed)
        self.early, self.signals = early, list(killing.SIGNALS)
        assert self.signals[0] == signal.SIGKILL

    def choice(self, _: Any) -> Any:
        if not self.signals:
            self.signals = self.sample(killing.SIGNALS, len(killing.SIGNALS))
        return self.signals.pop(0)

    def random(self) -> float:
        drawn = super().random()
        return drawn if self.early else killing.EARLY + (1 - killing.EARLY) * drawn


class Killed:
    """A job that is killed again and again; `lost` are the calls that each kill made the server answer in vain."""

    def __init__(self, server: ScriptedServer, path: Path, concurrency: int = CONCURRENCY) -> None:
        self.server, self.path, self.concurrency = server, path, concurrency
        self.lost: list[tuple[Hit, int]] = []

    def kill(self, words: list[str], needed: int, kills: int, compare: Callable[[], None]) -> None:
        """Kill a job of `needed` calls so often, after some more calls and a moment each time, and let it end."""
        draw = Draw(f"{words[0]} {needed}", early=kills > len(killing.SIGNALS))
        most = needed // (kills + 1) - 2 * self.concurrency  # as many may be answered until the kill has come
        assert most > 0, "make the job longer"

        def again(number: int) -> list[str]:
            assert number == 0, "it ended before it was killed often enough: make the job longer"
            return words

        def ready(number: int) -> Callable[[], bool]:
            due = total(self.server) + draw.randint(0, most)

            def slower(request: dict[str, Any], attempt: int) -> None:
                self.server.latency = SLOW if total(self.server) >= due else LATENCY

            self.server.faults = slower
            return lambda: total(self.server) >= due

        killing.kill_at_random(
            again, lambda number: compare(), ready, rng=draw, count=kills, longest=2 * LATENCY, after=self.count
        )
        self.server.faults = lambda request, attempt: None

    def count(self, hit: Hit) -> None:
        """Count what a kill that has just passed lost."""
        settle(self.server)
        kept = sum(row.calls for row in store.ledger(self.path)) if self.path.exists() else 0
        self.lost.append((hit, total(self.server) - kept - sum(lost for _, lost in self.lost)))

    def check(self, needed: int) -> None:
        """A signal that is caught lost nothing, SIGKILL no more than it may, and the ledger has everything."""
        print(killing.told([hit for hit, _ in self.lost]), f"\n{needed} calls; lost: {[lost for _, lost in self.lost]}")
        uncaught = [lost for hit, lost in self.lost if hit.signal == signal.SIGKILL]
        assert uncaught
        assert sum(lost for hit, lost in self.lost) == sum(uncaught)
        assert max(uncaught) <= 2 * self.concurrency, "under way, and as many answers that were not on the disk"
        assert total(self.server) == needed + sum(uncaught), "nothing else is asked twice"
        assert len(self.server.calls) == needed
        ledger = store.ledger(self.path)
        assert sum(row.calls for row in ledger) == needed
        noted = sum(row.unanswered for row in ledger)  # before it is sent: some never reached the server
        assert noted <= len(uncaught) * 2 * self.concurrency, "it is there at its worst price"


def settle(server: ScriptedServer) -> None:
    """Wait until the server has read all that a process which has ended sent."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)  # taken after those that came before
    connection.request("GET", "/v1/models")
    connection.getresponse().read()
    connection.close()
    while server._open:
        time.sleep(0.005)


def same_files(one: Path, other: Path) -> Callable[[], None]:
    def compare() -> None:
        assert data_jobs.files(one) == data_jobs.files(other)

    return compare


@pytest.mark.parametrize(
    ("problems", "kills"), [(24, 3), pytest.param(400, 50, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_search(problems: int, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    data_jobs.write(tmp_path / "in.jsonl", data_jobs.problems(problems))
    with ScriptedServer(scripted_teacher.reply) as server:
        assert command(*job("search", tmp_path / "whole", server.url, *OPTIONS)).code == 0
        needed = total(server)
    with ScriptedServer(scripted_teacher.reply) as server:
        words = job("search", tmp_path / "killed", server.url, *OPTIONS)
        killed = Killed(server, tmp_path / "killed" / STORE)
        killed.kill(words, needed, kills, same_files(tmp_path / "killed", tmp_path / "whole"))
        killed.check(needed)


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

    with ScriptedServer(says) as server:
        student, judge = (
            data_jobs.profile(tmp_path / name, server.url, name=name, model=name, concurrency=4)
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
        killed = Killed(server, tmp_path / "killed" / STORE, 2 * 4)  # of two models
        killed.kill(words("killed"), needed, kills, same_files(tmp_path / "killed", tmp_path / "whole"))
        killed.check(needed)


def test_eval_of_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    questions = data_jobs.write(tmp_path / "in.jsonl", data_jobs.questions(60))
    reply = lambda request: f"The answer is {'ABCDE'[len(request['messages'][-1]['content']) % 5]}."  # noqa: E731
    with ScriptedServer(reply) as server:
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
        killed = Killed(server, tmp_path / "killed.sqlite", 4)
        killed.kill(words("killed"), needed, 2, compare)
        killed.check(needed)
