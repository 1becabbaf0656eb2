"""Evaluating: every question is asked once, replies survive a kill, other settings are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError, ReplyError
from lite_huatuo.evaluation import benchmarks, predictions, run
from lite_huatuo.evaluation.targets import Ask, Keep, Sampling, Written
from lite_huatuo.records import ExamQuestion
from lite_huatuo.training.progress import Quiet

BENCHMARK = benchmarks.shipped()["medqa"]
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=20, seed=0)
LOADED = benchmarks.Loaded(
    [ExamQuestion(f"q{n}", f"Question {n}?", {"A": "x", "B": "y", "C": "z"}, "B", "y") for n in range(6)], ["f:9: bad"]
)


class Scripted:
    """Says "The answer is B." to all, counts what it is asked, and dies after some replies."""

    def __init__(self, *, lives: int = 99, silent: str = "", **identity: Any) -> None:
        self.identity, self.max_tokens, self.lives, self.silent = {"model": "m", **identity}, 20, lives, silent
        self.asked: list[tuple[str, int]] = []

    def write(self, asks: Sequence[Ask], sampling: Sampling, keep: Keep) -> None:
        for each in asks:
            if self.lives == 0:
                raise KeyboardInterrupt
            self.lives -= 1
            self.asked.append((each.id, each.run))
            failure = "HTTP 500" if each.id == self.silent else None
            keep([(each, Written("" if failure else "The answer is B.", 5, True, failure))])


def evaluate(writer: Scripted, folder: Path, sampling: Sampling = GREEDY, **options: Any) -> dict[str, Any]:
    made = {"sampling": sampling, "progress": Quiet(), **options}
    return run.evaluate(writer, "medqa", BENCHMARK, LOADED, folder, **made)


def test_a_summary_tells_scores_and_how_they_came_about(tmp_path: Path) -> None:
    found = evaluate(Scripted(), tmp_path)
    assert (found["accuracy"], found["questions"], found["refused_rows"]) == (1.0, 6, 1)
    assert (found["rule"], found["version"], found["prompt"], found["column"]) == ("strict", 2, "one-1", "MedQA")
    assert found["settings"]["temperature"] == 0.0
    assert predictions.read_report(tmp_path) == {"medqa": found}
    rows = predictions.read(tmp_path / "medqa.jsonl")
    assert [(row["reading"], row["correct"], row["tokens"]) for row in rows] == [("B", True, 5)] * 6


def test_after_a_kill_nothing_is_asked_again(tmp_path: Path) -> None:
    first, second, third = Scripted(lives=4), Scripted(), Scripted()
    with pytest.raises(KeyboardInterrupt):
        evaluate(first, tmp_path)
    with (tmp_path / "medqa.jsonl").open("a") as file:
        file.write('{"id": "q5", "run": 0, "asked": "torn')
    found = evaluate(second, tmp_path)
    assert sorted(first.asked + second.asked) == [(f"q{n}", 0) for n in range(6)]
    assert found == evaluate(third, tmp_path)
    assert third.asked == []


def test_more_questions_and_runs_ask_for_the_new_ones_only(tmp_path: Path) -> None:
    writers = [Scripted() for _ in range(3)]
    evaluate(writers[0], tmp_path, limit=2, shuffle=True)
    evaluate(writers[1], tmp_path, limit=4, shuffle=True)
    found = evaluate(writers[2], tmp_path, limit=4, runs=3, shuffle=True)
    assert [len(writer.asked) for writer in writers] == [2, 2, 8]
    assert (found["questions"], found["replies"], list(found["runs"])) == (4, 12, ["0", "1", "2"])
    assert found["shuffle_spread"] > 0  # who always says B is right by the order
    assert found["runs"]["0"] == 1.0


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    evaluate(Scripted(), tmp_path)
    warmer = Sampling(temperature=0.7, top_p=1.0, max_tokens=20, seed=0)
    with pytest.raises(RecordError, match=r"seed: None → 0; temperature: 0.0 → 0.7.*--overwrite"):
        evaluate(Scripted(), tmp_path, warmer)
    with pytest.raises(RecordError, match=r"target\.adapter: None → abc"):
        evaluate(Scripted(adapter="abc"), tmp_path)
    again = Scripted(adapter="abc")
    evaluate(again, tmp_path, overwrite=True)
    assert len(again.asked) == 6


def test_a_question_that_changed_is_refused(tmp_path: Path) -> None:
    evaluate(Scripted(), tmp_path)
    changed = [ExamQuestion("q0", "Another?", {"A": "x", "B": "y"}, "B", "y")]
    with pytest.raises(RecordError, match="question q0 was asked with another text"):
        run.evaluate(
            Scripted(), "medqa", BENCHMARK, benchmarks.Loaded(changed, []), tmp_path, sampling=GREEDY, progress=Quiet()
        )


def test_what_failed_is_counted_and_asked_again(tmp_path: Path) -> None:
    found = evaluate(Scripted(silent="q3"), tmp_path)
    assert (found["failed"], found["replies"], found["failures"]) == (1, 5, {"HTTP 500": 1})
    second = Scripted()
    assert evaluate(second, tmp_path)["failed"] == 0
    assert second.asked == [("q3", 0)]
    only = benchmarks.draw(LOADED.questions, 1)[0].id
    with pytest.raises(ReplyError, match="no question got a reply; the first: HTTP 500"):
        evaluate(Scripted(silent=only), tmp_path / "new", limit=1)


def test_kept_replies_are_read_with_todays_rules(tmp_path: Path) -> None:
    evaluate(Scripted(), tmp_path)
    path = tmp_path / "medqa.jsonl"
    old = [{**row, "readings": {"strict": "C"}, "correct": False} for _, row in jsonl.iter_rows(path)]
    jsonl.write(path, map(jsonl.sealed, old))
    writer = Scripted()
    assert evaluate(writer, tmp_path)["accuracy"] == 1.0
    assert writer.asked == []
    assert all(row["correct"] for row in predictions.read(path))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("medqa.settings.json", "{", "damaged"),
        ("report.json", "[", "damaged"),
        ("medqa.jsonl", '{"id": 1}\n', r"medqa.jsonl:1: changed since it was written; remove this line"),
        ("medqa.jsonl", jsonl.dumps(jsonl.sealed({"id": 1})) + "\n", "no prediction"),
        ("medqa.jsonl", "nonsense\n", "not valid JSON"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    evaluate(Scripted(), tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(RecordError, match=told):
        evaluate(Scripted(), tmp_path)


def test_predictions_without_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "medqa.jsonl").write_text(json.dumps({"id": "q0"}) + "\n")
    with pytest.raises(RecordError, match="nobody knows how it was made"):
        evaluate(Scripted(), tmp_path)
