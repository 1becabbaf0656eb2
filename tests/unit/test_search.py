"""Search: the path follows from seed, id and replies; nothing is seen that should not be; every round is recorded."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from lite_huatuo.data.search import (
    STRATEGIES,
    Verify,
    backtracked_to,
    exact_verify,
    search,
    teacher_verify,
    thoughts_text,
)
from lite_huatuo.errors import ReplyError
from lite_huatuo.records import Round, Trajectory, VerifiableProblem, to_row
from tests.scripted_teacher import InProcess, is_right

PROBLEMS = [
    VerifiableProblem(f"p{n}", f"{n} days of fever, then a rash. What is it?", f"Exanthem type {n}") for n in range(60)
] + [VerifiableProblem(f"z{n}", f"发热{n}天后出疹，最可能的诊断是什么？", f"幼儿急疹{n}型", "zh") for n in range(30)]


def run(
    problem: VerifiableProblem, ask: InProcess | None = None, verify: Verify | None = None, **settings: Any
) -> Trajectory:
    ask = ask or InProcess()
    return asyncio.run(search(problem, ask=ask, verify=verify or teacher_verify(ask), teacher="t", **settings))


def wrong(*_: Any) -> dict[str, bool]:
    return {"correct": False}


@pytest.fixture(scope="module")
def found() -> list[Trajectory]:
    return [run(problem, label_guided=True) for problem in PROBLEMS]


def test_what_is_right_is_found_and_recorded_last(found: list[Trajectory]) -> None:
    for trajectory in found:
        rounds = [entry for attempt in trajectory.attempts for entry in attempt]
        assert [entry.verdict for entry in rounds[:-1]] == [False] * (len(rounds) - 1)
        assert rounds[-1].verdict is trajectory.solved
        assert all(attempt[0].strategy == "first" for attempt in trajectory.attempts)
        problem = trajectory.problem
        assert [entry.verdict for entry in rounds] == [
            is_right(problem.question, problem.ground_truth, entry.conclusion) for entry in rounds
        ]
    assert {trajectory.solved for trajectory in found} == {True, False}


def test_bounds_of_rounds_and_attempts(found: list[Trajectory]) -> None:
    for trajectory in found:
        *given_up, last = trajectory.attempts
        assert [len(attempt) for attempt in given_up] == [4] * len(given_up)
        assert len(trajectory.attempts) <= 3
        assert len(last) <= 4 + trajectory.label_guided
    assert {len(trajectory.attempts) for trajectory in found} == {1, 2, 3}
    unsolved = run(PROBLEMS[0], InProcess(verify=wrong), rounds=1, attempts=2)
    assert [len(attempt) for attempt in unsolved.attempts] == [2, 2]
    assert [len(attempt) for attempt in run(PROBLEMS[0], InProcess(verify=wrong), rounds=0, attempts=1).attempts] == [1]


def test_every_strategy_occurs_but_no_backtracking_in_round_one(found: list[Trajectory]) -> None:
    attempts = [attempt for trajectory in found for attempt in trajectory.attempts]
    names = {entry.strategy.partition(":")[0] for attempt in attempts for entry in attempt}
    assert names == {"first", "label-guided", *STRATEGIES}
    assert {attempt[1].strategy for attempt in attempts if len(attempt) > 1} == {*STRATEGIES} - {"backtracking"}


def test_the_label_guided_round_comes_last_is_marked_and_is_verified(found: list[Trajectory]) -> None:
    guided = [trajectory for trajectory in found if trajectory.label_guided]
    for trajectory in guided:
        assert len(trajectory.attempts) == 3
        assert trajectory.attempts[-1][-1].strategy == "label-guided"
    assert {trajectory.solved for trajectory in guided} == {True, False}  # it may fail like any other
    for trajectory in found:
        marked = [entry.strategy == "label-guided" for attempt in trajectory.attempts for entry in attempt]
        assert sum(marked) == trajectory.label_guided
    assert not run(PROBLEMS[0], InProcess(verify=wrong)).label_guided  # off by default


def test_the_ground_truth_is_shown_to_the_label_guided_round_and_the_verifier_only() -> None:
    ask = InProcess(verify=wrong)
    run(PROBLEMS[0], ask, label_guided=True)
    saw = {request.step for request in ask.requests if PROBLEMS[0].ground_truth in request.prompt}
    assert saw == {"search.label_guided", "search.verify"}
    assert len(ask.prompts("label_guided")) == 1


def test_a_strategy_sees_the_path_and_backtracking_only_what_is_kept_of_it() -> None:
    seen = 0
    for problem in PROBLEMS[:40]:
        ask = InProcess(verify=wrong)
        attempt = run(problem, ask, rounds=4, attempts=1).attempts[0]
        asked = [request for request in ask.requests if request.step not in ("search.verify",)]
        asked = [request for request in asked if "retry" not in request.sample]
        path = [1]
        for number, (entry, request) in enumerate(zip(attempt[1:], asked[1:], strict=True), start=2):
            target = backtracked_to(entry)
            if target is not None:
                assert target in path[:-1]  # always to an earlier point
                left = path[path.index(target) + 1 :]
                path = path[: path.index(target) + 1]
                shown = "\n".join(attempt[gone - 1].conclusion for gone in left)
                assert f"<wrong>\n{shown}\n</wrong>" in request.prompt
                seen += 1
            assert thoughts_text([(k, attempt[k - 1]) for k in path], problem.language) in request.prompt
            for k in range(1, number):  # a round that was left is shown no more
                assert (attempt[k - 1].steps[0]["content"] in request.prompt) == (k in path)
            path.append(number)
    assert seen > 10


def test_the_path_depends_on_seed_id_and_replies_alone() -> None:
    async def together(width: int) -> list[Trajectory]:
        ask, gate = InProcess(), asyncio.Semaphore(width)

        async def one(problem: VerifiableProblem) -> Trajectory:
            async with gate:
                return await search(problem, ask=ask, verify=teacher_verify(ask), teacher="t", seed=7)

        return await asyncio.gather(*map(one, PROBLEMS[:30]))

    random.seed(1)
    alone = asyncio.run(together(1))
    random.seed(2)
    assert asyncio.run(together(64)) == alone
    assert [run(problem, seed=7) for problem in PROBLEMS[:30]] == alone
    strategies = [[entry.strategy for entry in attempt] for t in alone for attempt in t.attempts]
    others = [run(problem, seed=8) for problem in PROBLEMS[:30]]
    assert [[entry.strategy for entry in attempt] for t in others for attempt in t.attempts] != strategies


def test_the_draws_are_the_same_in_every_version() -> None:
    """A pinned path: a run begun with one Python or one version of this file goes on with another."""
    paths = [
        [
            entry.strategy
            for entry in run(replace(PROBLEMS[0], id=name), InProcess(verify=wrong), attempts=1).attempts[0]
        ]
        for name in "abc"
    ]
    assert paths == [
        ["first", "exploring", "correction", "correction"],
        ["first", "correction", "verification", "exploring"],
        ["first", "exploring", "backtracking:1", "verification"],
    ]


def test_attempts_and_rounds_are_samples_of_their_own() -> None:
    ask = InProcess(
        verify=wrong, first={"steps": [{"action": "think", "title": "", "content": "x"}], "conclusion": "x"}
    )
    run(PROBLEMS[0], ask, rounds=1, attempts=2)
    first = [request for request in ask.requests if request.step == "search.first"]
    assert len({request.prompt for request in first}) == 1
    assert [request.sample for request in first] == ["attempt 1 round 0", "attempt 2 round 0"]


@pytest.mark.parametrize(
    "reply",
    [
        {"steps": [], "conclusion": "x"},
        {"steps": [{"action": "think", "title": "x", "content": " …"}], "conclusion": "x"},
        {"steps": [{"action": "think", "title": "x", "content": "x"}], "conclusion": " ."},
        {"steps": [{"action": "guess", "title": "x", "content": "x"}], "conclusion": "x"},
        "no JSON",
    ],
)
def test_a_chain_that_says_nothing_is_a_failure_not_a_wrong_answer(reply: Any) -> None:
    ask = InProcess(first=reply)
    with pytest.raises(ReplyError, match=r"search\.first: no usable reply: the last of 3: "):
        run(PROBLEMS[0], ask)
    assert len(ask.requests) == 3


def test_an_unreadable_verdict_is_a_failure_not_a_wrong_answer() -> None:
    with pytest.raises(ReplyError, match=r"search.verify: no usable reply: the last of 3: "):
        run(PROBLEMS[0], InProcess(verify="It looks correct to me."))


def test_the_exact_verifier_judges_without_a_model() -> None:
    truth = PROBLEMS[0].ground_truth
    reply = {"steps": [{"action": "think", "title": "x", "content": "x"}], "conclusion": f"The diagnosis is {truth}."}
    ask = InProcess(first=reply)
    assert run(PROBLEMS[0], ask, exact_verify()).solved
    assert not run(PROBLEMS[1], ask, exact_verify(), attempts=1, rounds=0).solved
    assert {request.step for request in ask.requests} == {"search.first"}
    with pytest.raises(ReplyError, match="problem p0 cannot be judged"):
        asyncio.run(exact_verify()(replace(PROBLEMS[0], ground_truth="…"), "x", ""))


@pytest.mark.parametrize(("language", "words"), [("en", ["Round 2", "round 1"]), ("zh", ["第2轮", "第1轮"])])
def test_going_back_is_told_in_the_thoughts(language: str, words: list[str]) -> None:
    steps = [{"action": "think", "title": "t", "content": "c"}]
    rounds = [Round("first", steps, "x", False, "t"), Round("backtracking:1", steps, "y", True, "t")]
    text = thoughts_text(list(enumerate(rounds, 1)), language)
    assert all(word in text for word in words)
    assert to_row(rounds[1])["strategy"] == "backtracking:1"
