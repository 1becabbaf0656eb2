"""What a run shows at its end stands on files that may be damaged or of another version: it is shown all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lite_huatuo.cli import results
from lite_huatuo.errors import RecordError
from lite_huatuo.evaluation import predictions
from lite_huatuo.run_dir import RunDir

SUMMARY = {
    "problems": 4,
    "failed": 0,
    "well_formed": 3,
    "right": 2,
    "score": 0.5,
    "score_standard_error": 0.1,
    "length": 9,
}


def shown(report: dict[str, Any]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(results.table(report))
    return capture.get()


@pytest.mark.parametrize("wrong", ["text", None, [1], {"a": 1}])
@pytest.mark.parametrize("field", SUMMARY)
def test_a_summary_with_a_field_of_another_type_is_called_unreadable(field: str, wrong: Any) -> None:
    text = shown({"sft": {**SUMMARY, field: wrong}, "ppo": SUMMARY})
    assert "0.75 (3/4)" in text  # the other stage's row stands
    assert "unreadable" in text or (field.startswith("score") and wrong is None)


def test_a_summary_that_lacks_a_field_or_is_none_is_called_unreadable() -> None:
    assert "unreadable" in shown({"sft": {}})
    assert "unreadable" in shown({"sft": "text"})


def test_metrics_and_samples_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = run.stage("sft") / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"sft/loss": 2.0}, {"sft/loss": "text"}, {"sft/loss": None}, {"sft/loss": float("nan")}, {"sft/loss": 1.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = results.curves(run)
    assert line.endswith("2 → 1")
    heldout = tmp_path / "eval" / "heldout.sft.jsonl"
    heldout.parent.mkdir()
    heldout.write_text('{"score": "text", "question": "Q?"}\n{"score": 0.5, "question": "Why?", "reply": "So."}\n')
    assert results.sample(run) == "Question: Why?\n\nSo.\n\n(score 0.5; ground truth: (missing))"


@pytest.mark.parametrize("content", ["[1]", '{"medqa": 3}', "[", '"text"'])
def test_a_damaged_report_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / predictions.REPORT).write_text(content)
    with pytest.raises(RecordError, match=r"report\.json: damaged .*; evaluate again"):
        predictions.read_report(tmp_path)
