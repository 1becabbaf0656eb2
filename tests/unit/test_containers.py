# ruff: noqa: E501 (one container a line)
"""Containers: rows are found in every shape in which exam files are published, and in nothing that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import containers, sources
from lite_huatuo.errors import RecordError

ONE = {"question": "Which gland makes tears?", "options": {"A": "Parotid", "B": "Lacrimal"}, "answer_idx": "B"}
TWO = {"question": "Which bone is in the ear?", "options": {"A": "Stapes", "B": "Talus"}, "answer_idx": "A"}


def rows(folder: Path, content: Any) -> list[tuple[str, dict[str, Any]]]:
    path = folder / "rows.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
    return [(where.removeprefix(str(path)), row) for where, row in containers.rows(path)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([ONE, TWO], [("[0]", ONE), ("[1]", TWO)]),
        (ONE, [("", ONE)]),
        ({"7": ONE, "31": TWO}, [("[7]", {"id": "7", **ONE}), ("[31]", {"id": "31", **TWO})]),
        ({"0": ONE, "1": TWO}, [("[0]", ONE), ("[1]", TWO)]),  # places in a table are no ids
        ({"x": {"id": "own", **ONE}}, [("[x]", {"id": "own", **ONE})]),
        ({"first": [ONE], "second": [TWO]}, [("[first][0]", {"set": "first", **ONE}), ("[second][0]", {"set": "second", **TWO})]),
        ({"first": {"q": ONE}, "second": {"q": TWO}}, [("[first][q]", {"set": "first", "id": "first-q", **ONE}), ("[second][q]", {"set": "second", "id": "second-q", **TWO})]),
        ({"language": "en", "version": "1", "data": [ONE]}, [("[data][0]", {"language": "en", **ONE})]),
        ({"question": {"0": "Q1?", "1": "Q2?"}, "opa": {"0": "x", "1": "y"}, "opb": {"0": "z"}}, [("[0]", {"question": "Q1?", "opa": "x", "opb": "z"}), ("[1]", {"question": "Q2?", "opa": "y", "opb": None})]),
        ({"QUESTION": ["Q1?", "Q2?"], "answer": ["x", "y"]}, [("[0]", {"QUESTION": "Q1?", "answer": "x"}), ("[1]", {"QUESTION": "Q2?", "answer": "y"})]),
        ({"columns": ["question", "answer"], "index": [4], "data": [["Q1?", "x"]]}, [("[0]", {"question": "Q1?", "answer": "x"})]),
        ({"7": ONE, "8": {"abstract": "no question"}}, [("[7]", {"id": "7", **ONE}), ("[8]", {"id": "8", "abstract": "no question"})]),
    ],
)  # fmt: skip
def test_every_container_gives_its_rows_with_their_places(tmp_path: Path, content: Any, found: Any) -> None:
    assert rows(tmp_path, content) == found


def test_the_exams_of_headqa_keep_what_stands_above_their_rows(tmp_path: Path) -> None:
    item = {"qid": "3", "qtext": "¿Qué?", "ra": "2", "image": "", "answers": [{"aid": "1", "atext": "no"}, {"aid": "2", "atext": "sí"}]}  # fmt: skip
    sheet = {"name": "Hoja_1", "year": "2014", "category": "nursery", "data": [item]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"version": "1.0", "language": "es", "exams": {"Hoja_1": sheet}}))
    ((where, row, exam),) = sources.iter_exams(str(path))
    assert where == f"{path}[exams][Hoja_1][data][0]"
    assert (row["category"], row["year"]) == ("nursery", "2014")
    assert (exam.id, exam.answer, exam.language, exam.source) == ("headqa-Hoja_1-3", "sí", "es", "HEAD-QA")


def test_json_lines_under_another_name_are_read_by_lines(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in (ONE, TWO))
    assert rows(tmp_path, f"\ufeff\n{lines}\n") == [(":2", ONE), (":3", TWO)]
    with pytest.raises(RecordError, match=r"rows\.json:2: not valid JSON"):
        rows(tmp_path, f"{json.dumps(ONE)}\nnothing\n")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"n": 1}, "an object without rows that are known, with the fields 'n'; expected an array"),
        ({str(n): {"m": n} for n in range(9)}, "with the fields '0', '1', '2', '3', '4' and 4 more"),
        ("", "not valid JSON"),
        ('{\n"n": 1,\n', "not valid JSON"),
        ("[" * 100_000, "too deep inside one another"),
        ("3", "expected objects, found int"),
        ([ONE, 2], "[1]: expected a JSON object, found int"),
        ({"set": [ONE, None]}, "[set][1]: expected a JSON object, found NoneType"),
        ({"7": ONE, "8": None}, "[8]: expected a JSON object, found NoneType"),
        ({"question": ["a", "b"], "answer": ["x"]}, "the column answer has 1 values, not 2"),
    ],
)
def test_what_holds_no_rows_is_refused_and_no_name_is_advised_that_cannot_work(
    tmp_path: Path, content: Any, told: str
) -> None:
    with pytest.raises(RecordError) as caught:
        rows(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "rows.json"))
    assert told in str(caught.value)
    assert ".jsonl" not in str(caught.value)


def test_rows_of_containers_are_chosen_by_their_set(tmp_path: Path) -> None:
    from lite_huatuo.data.exams import import_exams

    path, to = tmp_path / "eval.json", tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"tears_test": [ONE], "bones_test": [TWO]}))
    assert import_exams(str(path), to, only=["set=bones_test"])["kept"] == 1
    (kept,) = (json.loads(line) for line in to.read_text().splitlines())
    assert (kept["answer"], kept["source"]) == ("Stapes", "bones_test")
