"""Who answers in `chat`: three students on one base, each as itself; a model; an endpoint; and the stop button."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.errors import CheckpointError, LiteHuatuoError, ReplyError
from lite_huatuo.evaluation import students, targets
from lite_huatuo.evaluation.students import Local, Said
from lite_huatuo.evaluation.targets import Ask, Sampling
from lite_huatuo.models import backends
from lite_huatuo.run_dir import RunDir
from tests.scripted_server import ScriptedServer

QUESTION = "Patient 3 has rash. Which cure?"


@pytest.fixture(scope="module")
def three(toy_run: RunDir) -> Iterator[Local]:
    with students.enter(str(toy_run.path), every=True) as found:
        assert isinstance(found, Local)
        yield found


def answer(who: Any, name: str, question: str = QUESTION, **changes: Any) -> list[Said]:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40, "stop": threading.Event(), **changes}
    return list(who.answer(name, question, **options))


def test_each_student_says_what_it_says_alone(three: Local, toy_run: RunDir) -> None:
    assert three.names == ("base", "sft", "ppo")
    assert three.most_tokens == 32
    said = {name: answer(three, name)[-1].text for name in (*three.names, *three.names)}
    assert len(set(said.values())) == 3
    for stage in three.names:
        writer, _ = targets.open_run(toy_run.path, stage)
        alone: list[str] = []
        writer.write(
            [Ask("q", 0, QUESTION)],
            Sampling(0.0, 1.0, 40, 0),
            lambda rows, alone=alone: alone.append(rows[0][1].reply) if rows else None,
        )
        assert said[stage] == alone[0], stage


def test_one_base_is_loaded_for_all(toy_run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    load = backends.load
    monkeypatch.setattr(backends, "load", lambda *words, **options: loads.append(words) or load(*words, **options))
    with students.enter(str(toy_run.path), every=True) as found:
        assert len(found.names) == 3
    assert len(loads) == 1


def test_a_reply_grows_to_its_end(three: Local) -> None:
    said = answer(three, "ppo")
    assert len(said) > 3
    assert all(after.text.startswith(before.text) for before, after in pairwise(said))
    assert [each.end for each in said] == [*[None] * (len(said) - 1), "ended"]
    assert answer(three, "ppo", max_tokens=4)[-1].end == "cut"


def test_stop_ends_a_reply_and_the_next_is_whole(three: Local) -> None:
    whole, stop = answer(three, "ppo")[-1].text, threading.Event()
    said = []
    for each in three.answer("ppo", QUESTION, temperature=0.0, max_tokens=40, stop=stop):
        said.append(each)
        stop.set()
    assert said[-1].end == "stopped"
    assert whole.startswith(said[-1].text)
    assert len(said[-1].text) < len(whole)
    reader = three.answer("ppo", QUESTION, temperature=0.0, max_tokens=40, stop=threading.Event())
    next(reader)
    reader.close()  # the browser has gone
    assert answer(three, "ppo")[-1].text == whole


def test_a_question_that_is_too_long_is_told(three: Local) -> None:
    with pytest.raises(ReplyError, match=r"the question has \d+ tokens, the model takes 512"):
        answer(three, "sft", "rash " * 600)
    assert answer(three, "sft")[-1].end == "ended"


def test_what_fails_while_it_is_written_reaches_the_reader(three: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(three._model, "generate", broken)
    with pytest.raises(MemoryError, match="no room"):
        answer(three, "sft")


def test_a_stage_or_a_model_answers_alone(toy_run: RunDir, toy: dict[str, str], tmp_path: Path) -> None:
    for target, stage, names in (
        (f"{toy_run.path}/sft", None, ("sft",)),
        (str(toy_run.path), "base", ("base",)),
        (str(toy_run.path), None, ("ppo",)),
        (toy["model"], None, ("model",)),
    ):
        with students.enter(target, stage=stage) as found:
            assert found.names == names
            assert answer(found, names[0], max_tokens=3)[-1].end is not None
    new = RunDir.create(tmp_path / "new", toy_run.recipe())
    with pytest.raises(CheckpointError, match="no stage is finished yet"), students.enter(str(new.path), every=True):
        pass
    with pytest.raises(CheckpointError, match="ppo is not finished"), students.enter(f"{new.path}/ppo"):
        pass


def test_an_endpoint_answers_and_its_failures_are_told() -> None:
    held = threading.Event()

    def reply(request: dict[str, Any]) -> str:
        question = request["messages"][0]["content"]
        if question == "slow":
            held.wait(20)
        return f"You asked: {question}"

    def faults(request: dict[str, Any], attempt: int) -> str | None:
        return "length" if request["messages"][0]["content"] == "long" else None

    with ScriptedServer(reply, faults=faults) as server, students.enter(server.url, overrides=["model=m"]) as found:
        assert (found.names, answer(found, "m", "Why?")) == (("m",), [Said("You asked: Why?", "ended")])
        assert answer(found, "m", "long")[-1].end == "cut"
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        assert answer(found, "m", "slow", stop=stop) == [Said("", "stopped")]
        held.set()
        assert answer(found, "m", "After?")[-1].text == "You asked: After?"
    with students.enter("http://127.0.0.1:9/v1", overrides=["model=m"]) as found, pytest.raises(LiteHuatuoError):
        answer(found, "m")
