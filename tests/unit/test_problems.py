"""Exam question to verifiable problem: letters are read strictly, reasons told, unusable open questions refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lite_huatuo.data.problems import answer_text, judge, read_letters, reformat, solve
from lite_huatuo.errors import ReplyError
from lite_huatuo.records import ExamQuestion, VerifiableProblem
from tests.scripted_teacher import InProcess

QUESTION = ExamQuestion(
    id="q1",
    question="A child has a strawberry tongue and peeling fingers. Which of the following is the worst complication?",
    options={"A": "Coronary aneurysm", "B": "Nephritis", "C": "Rheumatic fever", "D": "Asthma"},
    answer_idx="A",
    answer="Coronary aneurysm",
    source="made up",
)
CHINESE = ExamQuestion(
    id="q2",
    question="患儿杨梅舌，指端脱皮，下列哪项是最严重的并发症？",
    options={"A": "冠状动脉瘤", "B": "肾炎"},
    answer_idx="A",
    answer="冠状动脉瘤",
    language="zh",
)
OPEN = {
    "question": "A child has a strawberry tongue and peeling fingers. What complication is the worst?",
    "ground_truth": "Coronary aneurysm",
}
FITS = {"reason": "", "complete": True, "unique": True, "same": True}


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("A", "A"),
        (" (b). ", "B"),
        ("Ｃ", "C"),
        ("D. Asthma", "D"),
        ("d) asthma.", "D"),
        ("coronary  ANEURYSM", "A"),
        ("A, C", "AC"),
        ("CA", "AC"),
        ("A and B", "AB"),
        ("A、B", "AB"),
        ("E", ""),
        ("", ""),
        ("bad", ""),
        ("AA", ""),
        ("a child", ""),
        ("B. Asthma", ""),
        ("It is A", ""),
        ("<letter>", ""),
    ],
)
def test_letters_are_read_where_they_are_certain(answer: str, letters: str) -> None:
    assert read_letters(answer, QUESTION.options) == letters


@pytest.mark.parametrize(("answer", "right"), [("A", True), ("B", False), ("A, B", False), ("Coronary aneurysm", True)])
def test_a_question_is_solved_by_exactly_the_right_letters(answer: str, right: bool) -> None:
    assert run(solve(QUESTION, InProcess(solve={"answer": answer}))) is right


def test_several_right_letters_must_all_be_named() -> None:
    several = ExamQuestion("q", "Which two?", {"A": "x", "B": "y", "C": "z"}, "CA", "z; x")
    assert answer_text(several) == "C. z; A. x"
    assert run(solve(several, InProcess(solve={"answer": "A, C"}))) is True
    assert run(solve(several, InProcess(solve={"answer": "A"}))) is False


def test_no_answer_is_asked_for_again_and_is_no_wrong_answer() -> None:
    ask = InProcess(solve={"answer": "I do not know"})
    with pytest.raises(ReplyError, match="names none of A, B, C, D"):
        run(solve(QUESTION, ask, "model 2"))
    assert [request.sample for request in ask.requests] == ["model 2", "model 2 retry 1", "model 2 retry 2"]


def test_the_context_is_shown() -> None:
    ask = InProcess()
    with_context = ExamQuestion(
        "q", "Did it help?", {"A": "yes", "B": "no"}, "A", "yes", context="We gave 40 children…"
    )
    run(solve(with_context, ask))
    assert "<context>\nWe gave 40 children…\n</context>" in ask.requests[0].prompt
    assert "A. yes\nB. no" in ask.requests[0].prompt


@pytest.mark.parametrize(
    ("denied", "reason"),
    [
        ("deep", "too simple: why so"),
        ("unique", "no unique answer: why so"),
        ("reformable", "needs its options: why so"),
    ],
)
def test_the_judge_gives_the_reason_to_drop(denied: str, reason: str) -> None:
    verdict = {"reason": "why\n so", "deep": True, "unique": True, "reformable": True}
    assert run(judge(QUESTION, InProcess(judge_question=verdict))) is None
    assert run(judge(QUESTION, InProcess(judge_question={**verdict, denied: False}))) == reason


@pytest.mark.parametrize("question", [QUESTION, CHINESE])
def test_a_problem_keeps_id_language_and_source(question: ExamQuestion) -> None:
    written = {"question": "患儿杨梅舌，指端脱皮，最严重的并发症是什么？", "ground_truth": question.answer}
    ask = InProcess(reformat=written, check_reformat=FITS)
    problem = run(reformat(question, ask))
    assert problem == VerifiableProblem(
        question.id, written["question"], question.answer, language=question.language, source=question.source
    )
    assert ask.prompts("check_reformat")[0]["answer"] == f"A. {question.answer}"
    assert ("请" in ask.requests[0].prompt) == (question.language == "zh")


@pytest.mark.parametrize(
    ("denied", "reason"),
    [
        ("complete", "incomplete open question"),
        ("unique", "open question has other answers"),
        ("same", "changed meaning"),
    ],
)
def test_a_rewriting_that_fails_the_check_is_dropped(denied: str, reason: str) -> None:
    ask = InProcess(reformat=OPEN, check_reformat={**FITS, denied: False})
    assert run(reformat(QUESTION, ask)) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": "Which of the following is the worst complication?"}, "leans on its options"),
        ({"question": "What is the worst? Option B is not."}, "leans on its options"),
        ({"question": "杨梅舌患儿，以下哪项并发症最严重？"}, "leans on its options"),
        ({"question": "Why?"}, "empty"),
        ({"ground_truth": "—"}, "empty"),
        ({"ground_truth": "because " * 40}, "no short answer"),
        ({"question": "How bad is a coronary aneurysm after strawberry tongue?"}, "gives its ground truth away"),
    ],
)
def test_an_open_question_that_cannot_be_used_is_asked_for_again(change: dict[str, str], reason: str) -> None:
    ask = InProcess(reformat={**OPEN, **change}, check_reformat=FITS)
    with pytest.raises(ReplyError, match=reason):
        run(reformat(QUESTION, ask))
    assert len(ask.requests) == 3


@pytest.mark.parametrize(
    "question", ["What options does a patient with angina have?", "Name the one of the five ligaments that tears most."]
)
def test_ordinary_words_do_not_lean_on_options(question: str) -> None:
    ask = InProcess(reformat={**OPEN, "question": question}, check_reformat=FITS)
    assert run(reformat(QUESTION, ask)).question == question


def test_a_truth_that_the_original_names_may_stand_in_the_open_question() -> None:
    either = ExamQuestion("q", "Is it malignant or benign?", {"A": "malignant", "B": "benign"}, "A", "malignant")
    written = {"question": "Is it malignant or benign?", "ground_truth": "malignant"}
    assert isinstance(run(reformat(either, InProcess(reformat=written, check_reformat=FITS))), VerifiableProblem)


def test_the_scripted_teacher_keeps_drops_and_fails() -> None:
    async def one(number: int) -> str:
        question = ExamQuestion(f"q{number}", f"{number}. {QUESTION.question}", QUESTION.options, "A", QUESTION.answer)
        try:
            reason = await judge(question, InProcess())
            problem = reason or await reformat(question, InProcess())
            solved = await solve(question, InProcess())
        except ReplyError:
            return "failed"
        return problem.split(":")[0] if isinstance(problem, str) else f"kept {solved}"

    async def everything() -> list[str]:
        return [await one(number) for number in range(200)]

    seen = run(everything())
    assert {"kept True", "kept False", "too simple", "no unique answer", "needs its options"} < set(seen)
    assert {"incomplete open question", "open question has other answers", "changed meaning"} < set(seen)
    assert run(everything()) == seen
