"""Import: what can be used is written, what cannot is kept beside with its reason, and nothing is lost between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import exams, side_files
from lite_huatuo.errors import RecordError


def row(n: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"e{n}", "question": f"Which {n}?", "options": {"A": "one", "B": "two"}, "answer_idx": "B", **changes}


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in jsonl.iter_rows(path)]


@pytest.fixture
def write(tmp_path: Path):
    def to(*written: dict[str, Any]) -> str:
        jsonl.write(tmp_path / "in.jsonl", written)
        return str(tmp_path / "in.jsonl")

    return to


def test_good_rows_and_refused_ones_are_all_the_rows(write, tmp_path: Path) -> None:
    source = write(
        row(1), row(2, answer_idx="C"), row(1), row(1, question="Other?"), row(3, question=" "), row(4, answer="two")
    )
    counts = exams.import_exams(source, tmp_path / "exam.jsonl")
    assert counts == {"rows": 6, "left_out": 0, "kept": 2, "refused": 4}
    assert [kept["id"] for kept in rows(tmp_path / "exam.jsonl")] == ["e1", "e4"]
    refused = rows(tmp_path / "exam.refused.jsonl")
    assert [(one["where"].rpartition(":")[2], side_files.kind(one["reason"])) for one in refused] == [
        ("2", "answer is no option"),
        ("3", "repeated row"),
        ("4", "id used twice"),
        ("5", "no question"),
    ]
    assert refused[0]["row"] == row(2, answer_idx="C")
    assert f"{source}:1" in refused[1]["reason"]


def test_what_was_imported_is_imported_again_unchanged(write, tmp_path: Path) -> None:
    first, second = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    exams.import_exams(write(row(1, context="Forty patients."), {**row(2), "id": ""}), first)
    exams.import_exams(str(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_name_language_only_and_limit(write, tmp_path: Path) -> None:
    source = write(*(row(n, category=kind) for n, kind in enumerate(["law", "health", "physics", "law"])))
    to = tmp_path / "exam.jsonl"
    counts = exams.import_exams(source, to, only=["category!=health,biology"], name="Mine", language="es", limit=2)
    assert counts == {"rows": 3, "left_out": 1, "kept": 2, "refused": 0}
    assert [(kept["id"], kept["source"], kept["language"]) for kept in rows(to)] == [
        ("e0", "Mine", "es"),
        ("e2", "Mine", "es"),
    ]
    assert exams.import_exams(source, to, only=["category=law"])["kept"] == 2
    for bad in ("category", "=law", "subject=law"):
        with pytest.raises(RecordError, match="field"):
            exams.import_exams(source, to, only=[bad])


def test_a_source_that_fails_half_way_leaves_the_old_output(write, tmp_path: Path) -> None:
    to = tmp_path / "exam.jsonl"
    exams.import_exams(write(row(1)), to)
    before = to.read_bytes()
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(row(2)) + "\n{broken\n")
    with pytest.raises(RecordError, match=r"bad\.jsonl:2: not valid JSON"):
        exams.import_exams(str(bad), to)
    assert to.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.jsonl",
        "exam.jsonl",
        "exam.refused.jsonl",
        "in.jsonl",
    ]


def test_an_empty_source_and_an_odd_output_are_told(write, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no rows"):
        exams.import_exams(write(), tmp_path / "exam.jsonl")
    with pytest.raises(RecordError, match=r"ends in \.jsonl"):
        exams.import_exams(write(row(1)), tmp_path / "exam.json")
    with pytest.raises(RecordError, match="cannot be written"):
        exams.import_exams(write(row(1)), tmp_path / "no" / "exam.jsonl")


def test_a_refused_row_is_kept_whatever_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"question": "half \ud83d", "image": object(), "n": float("nan"), "list": [1, {"a": b"x"}], "answers": None}
    monkeypatch.setattr(
        exams.sources, "iter_exams", lambda *_, **__: [("hub[0]", odd, RecordError("hub[0]: not text: x"))]
    )
    exams.import_exams("hub/name", tmp_path / "exam.jsonl")
    assert rows(tmp_path / "exam.refused.jsonl") == [
        {
            "where": "hub[0]",
            "reason": "not text: x",
            "row": {
                "question": "half \\ud83d",
                "image": "<object>",
                "n": "<float>",
                "list": [1, {"a": "<bytes>"}],
                "answers": None,
            },
        }
    ]


@pytest.mark.shared_data
def test_every_row_of_the_real_files_is_kept(test_data: Path, tmp_path: Path) -> None:
    to = tmp_path / "exam.jsonl"
    for path in sorted(test_data.glob("exam_*/*.jsonl")):
        counts = exams.import_exams(str(path), to)
        originals = rows(path)
        assert counts == {"rows": len(originals), "left_out": 0, "kept": len(originals), "refused": 0}, path
        for original, kept in zip(originals, rows(to), strict=True):
            same = ("id", "answer_idx", "source", "language")
            assert [kept[name] for name in same] == [original[name] for name in same]
            assert (
                kept["question"] == original["question"].strip().strip('"').strip()
            )  # MedQA: some end in a stray quote
            assert {k: v.strip("“”") for k, v in original["options"].items()} == kept["options"]  # quoted speech
            assert kept.get("context") == (original.get("context") or None)
