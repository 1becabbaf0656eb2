"""Hostile texts: 10 MB in one line, NUL, half characters, byte-order marks, CRLF. Readers end in time that grows with
the text, and lose or change nothing without a word."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import exam_rows, jsonl, records
from lite_huatuo.data import replies, sources
from lite_huatuo.errors import RecordError, ReplyError
from lite_huatuo.evaluation import answers
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.response_format import parse, render
from lite_huatuo.verifier import exact, verdict_words
from lite_huatuo.verifier.base import Item

OPTIONS = {"A": "gout", "B": "renal stone", "C": "sepsis", "D": "gout and sepsis"}
# What repeats in a text decides where a pattern would go back and forth.
PIECES = ["A, B and ", "(", '{"', "\\boxed{", "<think>", "answer is ", "- x\n", "痛", "one hundred ", "a.b.c."]
MORE = [
    "a",
    "A ",
    ")",
    "{",
    "[",
    '"',
    "\\",
    "<answer>",
    "</think>",
    "\n",
    "\0",
    " ",
    "1,",
    "not ",
    "or ",
    "**",
    "_",
    "~~",
]
MORE += [
    "## Thinking\n",
    "## Final Response\n",
    "选",
    "一百",
    "1/2/",
    "A/B ",
    "gout (",
    "the ",
    "\u200b",
    "İ",
    "e\u0301",
]
MORE += ["😀", "\ud800", "\r", ":", "no. "]


def read_reply(text: str) -> None:
    for read in (lambda: replies.read_object(text, SCHEMAS["first"]), lambda: replies.read_text(text)):
        try:
            read()
        except ReplyError as error:
            assert len(str(error)) < 1000  # noqa: PT017


def read_letters(text: str) -> None:
    for rule in answers.RULES:
        answers.read(rule, text, OPTIONS)


READERS: dict[str, Callable[[str], Any]] = {
    "form": parse,
    "reply": read_reply,
    "verdict word": verdict_words.read,
    "letters": read_letters,
    "exact, in the reply": lambda text: exact.judge(Item("What is it?", text, "gout")),
    "exact, in the truth": lambda text: exact.judge(Item("What is it?", "It is gout.", text)),
    "exact, in the question": lambda text: exact.judge(Item(text, "It is gout.", "gout")),
    "exam field": exam_rows.clean,
}


def seconds(read: Callable[[str], Any], text: str) -> float:
    begin = time.process_time()
    read(text)
    return time.process_time() - begin


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_text(name: str) -> None:
    """15 KB of anything that repeats are read in a second; what goes back and forth would need minutes."""
    for piece in PIECES:
        taken = seconds(READERS[name], piece * (15_000 // len(piece)))
        assert taken < 1.5, f"{name}: {taken:.1f} s for 15 KB of {piece!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_megabytes_are_read_in_time(name: str) -> None:
    for piece, size in [*((piece, 10_000_000) for piece in PIECES), *((piece, 1_000_000) for piece in MORE)]:
        taken = seconds(READERS[name], piece * (size // len(piece)))
        assert taken < 300, f"{taken:.1f} s for {size:,} characters of {piece!r}"


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    path, long = tmp_path / "rows.jsonl", "x" * 10_000_000
    jsonl.write(path, [{"id": "1", "question": long, "ground_truth": "gout"}, {"id": "2", "n": 2}])
    rows = [row for _, row in jsonl.iter_rows(path)]
    assert len(rows[0]["question"]) == 10_000_000
    assert rows[1] == {"id": "2", "n": 2}
    path.write_text('{"n": 1}\n{"n": "' + long, encoding="utf-8")
    found = jsonl.iter_rows(path)
    assert next(found)[1] == {"n": 1}
    with pytest.raises(RecordError, match=r"rows\.jsonl:2: not valid JSON") as caught:
        next(found)
    assert len(str(caught.value)) < 500  # the line itself is not in the message
    jsonl.drop_torn_tail(path)
    assert [row for _, row in jsonl.iter_rows(path)] == [{"n": 1}]


@pytest.mark.parametrize(
    "text", ["a\0b", "a\x1b[2Jb", "a\u2028b", "\ufeffa", "a\r\nb", "a\x85b", "x😀", "e\u0301", "a\x7fb"]
)
def test_a_text_comes_back_from_disk_as_it_was(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.write(path, [{"question": text}])
    jsonl.append(path, [{"question": text}])
    assert [row["question"] for _, row in jsonl.iter_rows(path)] == [text, text]
    if text == text.strip() and "\r" not in text:
        assert parse(render(text, text)) == (text, text)


@pytest.mark.parametrize("field", ["id", "question", "ground_truth", "language", "source"])
def test_half_a_character_in_a_problem_is_told_or_left_out(field: str, tmp_path: Path) -> None:
    """JSON can bring half of a character, which no file can hold: a later write would fail, far from its cause."""
    row = {"id": "1", "question": "q", "ground_truth": "g", field: "x\ud800"}
    check(records.problem_from_row, row, tmp_path)


@pytest.mark.parametrize("field", ["id", "question", "complex_cot", "response", "ground_truth", "provenance"])
def test_half_a_character_in_an_example_is_told_or_left_out(field: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"id": "1", "question": "q", "complex_cot": "c", "response": "r", field: "x\ud800"}
    if field == "provenance":
        row[field] = {"x": ["\ud800"]}
    check(records.sft_from_row, row, tmp_path)


@pytest.mark.parametrize("field", ["id", "question", "options", "answer", "language", "source", "context"])
def test_half_a_character_in_an_exam_question_is_told_or_left_out(field: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "id": "1",
        "question": "q",
        "options": {"A": "x", "B": "y"},
        "answer_idx": "A",
        "answer": "x",
    }
    row[field] = {"A": "x", "B": "y\ud800"} if field == "options" else "x\ud800"
    check(exam_rows.exam_from_row, row, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_told_or_left_out(value: float, tmp_path: Path) -> None:
    row = {"question": "q", "complex_cot": "c", "response": "r", "provenance": {"score": value}}
    check(records.sft_from_row, row, tmp_path)
    for name in ("id", "language", "source"):
        check(records.problem_from_row, {"question": "q", "ground_truth": "g", name: value}, tmp_path)


def test_a_missing_id_in_a_table_is_no_id() -> None:
    """Tables written by pandas have NaN where a value is missing: all rows would get the id "nan"."""
    rows = [{"id": float("nan"), "question": f"q{i}", "ground_truth": "g"} for i in range(2)]
    assert len({records.problem_from_row(row, "here").id for row in rows}) == 2


def test_an_option_that_is_a_sign_only_is_an_option(tmp_path: Path) -> None:
    """Found by fuzzing: the row was taken, and refused when it was read again."""
    check(exam_rows.exam_from_row, {"question": "q", "options": {"A": "x", "B": "."}, "answer_idx": "B"}, tmp_path)
    row = {"question": "q", "options": {"A": "+", "B": "-"}, "answer": "-"}
    assert exam_rows.exam_from_row(row, "here").answer_idx == "B"


def check(read: Callable[[dict[str, Any], str], Any], row: dict[str, Any], folder: Path) -> None:
    """A row is refused with its place, or becomes a record that can be written and read again."""
    row = json.loads(json.dumps(row))
    try:
        record = read(row, "file.jsonl:7")
    except RecordError as error:
        assert str(error).startswith("file.jsonl:7: ")  # noqa: PT017
        return
    path = folder / "again.jsonl"
    jsonl.write(path, [records.to_row(record)])
    [(where, again)] = list(jsonl.iter_rows(path))
    assert read(again, where) == record


@pytest.mark.parametrize("content", ["question,ground_truth\r\nq,g\r\n", "\ufeffquestion,ground_truth\nq,g\n"])
def test_a_table_of_another_system_is_read(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    assert [row for _, row in sources.rows(str(path))] == [{"question": "q", "ground_truth": "g"}]


@pytest.mark.parametrize(
    "content", ['question\n"' + "x" * 200_000 + '"\n', "question\na\0b\n", 'question\n"open\n', "", "\0"]
)
def test_a_hostile_table_is_read_or_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    try:
        rows = [row for _, row in sources.rows(str(path))]
    except RecordError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert all(isinstance(value, str) for row in rows for value in row.values())
