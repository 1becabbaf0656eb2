"""What a step made of its rows: the funnel, read from an output and its side files, and what the rows are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, thinking_marks
from lite_huatuo.data import side_files, texts
from lite_huatuo.errors import RecordError
from lite_huatuo.records import COMPLEX_COT, PROBLEM_QUESTION, RESPONSE


def funnel(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return one entry for each output, in the order given; see `stage`."""
    return [stage(path) for path in paths]


def stage(path: Path) -> dict[str, Any]:
    """Count an output's rows and those that fell out on the way to it, one row in memory at a time.

    Returns {file, rows, in, dropped: {step: {kind of reason: rows}}, failed: {the same}, refused: {kind: rows}} and
    what `describe` says of the rows. `in` is all of them: kept, dropped, failed and refused.
    """
    if not path.exists():
        raise RecordError(f"{path}: no such file")
    found: dict[str, Any] = {"file": str(path), **describe(path)}
    lost = 0
    for side in (side_files.DROPPED, side_files.FAILED):
        by_step: dict[str, Counter[str]] = {}
        for where, row in _side(path, side):
            kind = side_files.kind(_reason(row, where))
            by_step.setdefault(str(row.get("step", "?")), Counter())[kind] += 1
        found[side] = {step: dict(kinds.most_common()) for step, kinds in by_step.items()}
        lost += sum(kinds.total() for kinds in by_step.values())
    refused = Counter(side_files.kind(_reason(row, where)) for where, row in _side(path, side_files.REFUSED))
    found["refused"] = dict(refused.most_common())
    found["in"] = found["rows"] + lost + refused.total()
    return found


def describe(path: Path) -> dict[str, Any]:
    """Return what the rows of a file are: rows, languages, sources, origins, mean lengths of their texts in characters.

    `thinking_marks` counts rows whose complex CoT or response holds a mark that a student should not learn, by mark.
    Of trajectories also solved, label_guided, attempts and rounds ({how many a problem took: problems}), strategies.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("languages", "sources", "origins")}
    tried: dict[str, Counter[str]] = {name: Counter() for name in ("attempts", "rounds", "strategies")}
    lengths: dict[str, list[int]] = {}
    marks: Counter[str] = Counter()
    rows = solved = guided = 0
    for _, row in jsonl.iter_rows(path):
        rows += 1
        problem = row["problem"] if isinstance(row.get("problem"), Mapping) else row
        for name, value in (
            ("languages", problem.get("language")),
            ("sources", problem.get("source")),
            ("origins", (row.get("provenance") or {}).get("origin")),
        ):
            if value:
                counts[name][str(value)] += 1
        for what, names in (("question", PROBLEM_QUESTION), ("complex_cot", COMPLEX_COT), ("response", RESPONSE)):
            text = next((problem[name] for name in names if isinstance(problem.get(name), str)), None)
            if text is not None:
                lengths.setdefault(what, []).append(texts.length(text))
                if what != "question" and (mark := thinking_marks.seen(text)):
                    marks[mark] += 1
        if isinstance(row.get("attempts"), list):
            solved, guided = solved + bool(row.get("solved")), guided + bool(row.get("label_guided"))
            _count_attempts(row["attempts"], tried)
    found: dict[str, Any] = {
        "rows": rows,
        **{name: dict(count.most_common()) for name, count in counts.items() if count},
    }
    if marks:
        found["thinking_marks"] = dict(marks.most_common())
    if tried["attempts"]:
        found |= {"solved": solved, "label_guided": guided}
        found |= {name: dict(sorted(count.items())) for name, count in tried.items()}
    return {**found, "mean_length": {what: round(sum(all_) / len(all_)) for what, all_ in lengths.items()}}


def _count_attempts(attempts: Sequence[Sequence[Mapping[str, Any]]], tried: Mapping[str, Counter[str]]) -> None:
    """Add one trajectory's attempts, rounds and strategies to the counts."""
    tried["attempts"][str(len(attempts))] += 1
    tried["rounds"][str(sum(len(attempt) for attempt in attempts))] += 1
    tried["strategies"].update(str(one.get("strategy", "?")) for attempt in attempts for one in attempt)


def _side(path: Path, side: str) -> Any:
    """Return the rows of a side file, none where the step has none."""
    beside = side_files.side_path(path, side)
    return jsonl.iter_rows(beside) if beside.exists() else iter(())


def _reason(row: Mapping[str, Any], where: str) -> str:
    """Return why a row fell out; a side file whose row does not say is an error."""
    if not row.get("reason"):
        raise RecordError(f"{where}: a row of a side file has a reason")
    return str(row["reason"])
