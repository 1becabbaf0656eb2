"""Stats: the funnel counts every row once, by step and kind of reason, and says what the rows are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import exams, rules, side_files, sources, stats
from lite_huatuo.errors import RecordError
from lite_huatuo.records import Round, SFTExample, Trajectory, VerifiableProblem, to_row


def exam(n: int, question: str) -> dict:
    return {"id": str(n), "question": question, "options": {"A": "one", "B": "two"}, "answer_idx": "B", "source": "S"}


def test_a_funnel_follows_rows_through_the_steps(tmp_path: Path) -> None:
    case = "A man has had a fever and a cough for three weeks; he has lost weight and sweats at night, every night. "
    given = [
        exam(1, case + "Why?"),
        exam(2, case + "What is not seen?"),
        exam(3, "Why?"),
        exam(4, "Why not?"),
        exam(5, case),
    ]
    given.append({**exam(6, "Q?"), "answer_idx": "Z"})
    jsonl.write(tmp_path / "source.jsonl", given)
    exams.import_exams(str(tmp_path / "source.jsonl"), tmp_path / "exam.jsonl")
    kept = sources.load_exams(str(tmp_path / "exam.jsonl"))
    judged = ((to_row(question), reason) for question, reason in rules.apply(kept))
    side_files.sift(rules.STEP, tmp_path / "filtered.jsonl", judged)
    jsonl.write(tmp_path / "filtered.failed.jsonl", [{"id": "9", "step": "judge", "reason": "no reply: timed out"}])
    first, second = stats.funnel([tmp_path / "exam.jsonl", tmp_path / "filtered.jsonl"])
    assert (first["in"], first["rows"], first["refused"]) == (6, 5, {"answer is no option": 1})
    assert (first["dropped"], first["failed"]) == ({}, {})
    assert (second["in"], second["rows"]) == (6, 2)
    assert second["dropped"] == {"rules": {"short": 2, "asks for the wrong option": 1}}
    assert second["failed"] == {"judge": {"no reply": 1}}
    assert (second["languages"], second["sources"]) == ({"en": 2}, {"S": 2})


def test_trajectories_and_examples_are_described(tmp_path: Path) -> None:
    problem = VerifiableProblem("1", "痛？", "truth", "zh", "CMB")
    one = [Round("first", [], "x", False, "t"), Round("backtracking", [], "y", True, "t")]
    made = [Trajectory("1", problem, [one], True), Trajectory("2", problem, [one[:1], one], True, label_guided=True)]
    jsonl.write(tmp_path / "t.jsonl", map(to_row, made))
    found = stats.stage(tmp_path / "t.jsonl")
    assert (found["rows"], found["solved"], found["label_guided"]) == (2, 2, 1)
    assert (found["attempts"], found["rounds"]) == ({"1": 1, "2": 1}, {"2": 1, "3": 1})
    assert found["strategies"] == {"first": 3, "backtracking": 2}
    assert (found["languages"], found["sources"]) == ({"zh": 2}, {"CMB": 2})
    jsonl.write(
        tmp_path / "s.jsonl",
        [to_row(SFTExample("1", "Q?", "a" * n, "So.", None, {"origin": "searched"})) for n in (2, 4)],
    )
    found = stats.stage(tmp_path / "s.jsonl")
    assert (found["origins"], found["mean_length"]) == (
        {"searched": 2},
        {"question": 2, "complex_cot": 3, "response": 3},
    )


def test_what_is_missing_or_says_no_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.jsonl: no such file"):
        stats.stage(tmp_path / "none.jsonl")
    jsonl.write(tmp_path / "x.jsonl", [])
    jsonl.write(tmp_path / "x.dropped.jsonl", [{"id": "1", "step": "rules"}])
    with pytest.raises(RecordError, match=r"x\.dropped\.jsonl:1: a row of a side file has a reason"):
        stats.stage(tmp_path / "x.jsonl")
    (tmp_path / "x.dropped.jsonl").unlink()
    assert stats.stage(tmp_path / "x.jsonl")["in"] == 0
