"""Where rows come from: shipped data, JSON and JSON Lines files, data sets on the Hugging Face Hub.

A source is written `shipped:<name>`, a path that ends in .json, .jsonl or .csv, or
`org/name[:config][@revision][#split]`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lite_huatuo import exam_rows, jsonl
from lite_huatuo.data import files, hub_rows
from lite_huatuo.errors import RecordError
from lite_huatuo.records import ExamQuestion, SFTExample, VerifiableProblem, given, problem_from_row, sft_from_row

SHIPPED = "shipped:"
Record = TypeVar("Record", SFTExample, VerifiableProblem, ExamQuestion)


def load_problems(source: str, *, limit: int | None = None, seed: int = 0) -> list[VerifiableProblem]:
    """Load verifiable problems; `limit` draws that many, kept in file order."""
    return _load(source, problem_from_row, limit, seed)


def load_sft(source: str, *, limit: int | None = None, seed: int = 0) -> list[SFTExample]:
    """Load SFT examples; `limit` draws that many, kept in file order."""
    return _load(source, sft_from_row, limit, seed)


def load_exams(source: str, *, limit: int | None = None, seed: int = 0) -> list[ExamQuestion]:
    """Load exam questions in any published form; `limit` draws that many, kept in file order."""
    bases = CopBases(source)
    return _load(source, lambda row, where: bases.read(row, where), limit, seed)


def iter_exams(source: str, *, base: int | None = None) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield ("where", row, ExamQuestion) one at a time, or the row's RecordError in the question's place.

    `base` is from where MedMCQA's `cop` counts; None finds it out (see CopBases).
    """
    bases = CopBases(source, base)
    for where, row in rows(source):
        bases.look(row)  # what is wrong with all rows stops here
        try:
            yield where, row, bases.read(row, where)
        except RecordError as error:
            yield where, row, error


class CopBases:
    """From where MedMCQA's `cop` counts in a source: all its rows say so together, those of one origin (their own field
    `source`) for themselves. They are read when the first row with a `cop` comes; other sources are read once only."""

    def __init__(self, source: str, base: int | None = None) -> None:
        self._source, self._base = source, base
        self._found: dict[str, int] | None = None

    def look(self, row: Mapping[str, Any]) -> None:
        """Find out, where this row needs it; RecordError where the rows cannot be counted from one number."""
        if self._base is None and self._found is None and exam_rows.cop_bases(row) is not None:
            self._found = _cop_bases(self._source)

    def read(self, row: Mapping[str, Any], where: str) -> ExamQuestion:
        """Read an exam question of the source; RecordError as exam_rows.exam_from_row, and as `look`."""
        self.look(row)
        base = self._base if self._base is not None else (self._found or {}).get(_origin(row))
        return exam_rows.exam_from_row(row, where, cop_base=base)


def _cop_bases(source: str) -> dict[str, int]:
    """Return {origin of the rows: from where their `cop` counts}."""
    only: dict[str, dict[int, str]] = {}  # origin -> {base: the first row that leaves no other}
    for where, row in rows(source):
        bases = exam_rows.cop_bases(row)
        if bases is not None:
            told = only.setdefault(_origin(row), {})
            if len(bases) == 1:
                told.setdefault(min(bases), where)
    for told in only.values():
        if len(told) == 2:
            raise RecordError(
                f"{source}: MedMCQA rows: `cop` can only count from 0 in {told[0]}, and only from 1 in {told[1]}; give "
                "the rows of each kind in a file of their own, or write the letter as `answer_idx`"
            )
        if not told:
            raise RecordError(
                f"{source}: MedMCQA rows: `cop` may count from 0 (the Hub's copy) or from 1 (the authors' file), and "
                "no row tells; say which with --cop-base, or write the letter as `answer_idx`"
            )
    return {origin: next(iter(told)) for origin, told in only.items()}


def _origin(row: Mapping[str, Any]) -> str:
    return str(given(row, "source") or "")


def rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("where", row) for every row of a source."""
    if source.startswith(SHIPPED):
        name = source[len(SHIPPED) :]
        known = sorted(entry.name[:-6] for entry in _shipped().iterdir() if entry.name.endswith(".jsonl"))
        if name not in known:
            raise RecordError(f"{source}: no such shipped data; there are {', '.join(SHIPPED + k for k in known)}")
        with resources.as_file(_shipped() / f"{name}.jsonl") as path:
            yield from jsonl.iter_rows(path)
    elif source.endswith(files.ENDINGS):
        yield from files.rows(Path(os.path.expanduser(source)))
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists():
        yield from hub_rows.rows(source)
    else:
        raise RecordError(
            f"{source}: not a data source; give a .json, .jsonl or .csv file, org/name on the Hub, or shipped:<name>"
        )


def _load(source: str, read: Callable[[Mapping[str, Any], str], Record], limit: int | None, seed: int) -> list[Record]:
    """Read every row; the same record twice counts once, two records with one id are an error."""
    found: dict[str, Record] = {}
    for where, row in rows(source):
        record = read(row, where)
        if found.setdefault(record.id, record) != record:
            raise RecordError(
                f"{where}: id {json.dumps(record.id)} was used before for another record; ids must be unique"
            )
    if not found:
        raise RecordError(f"{source}: holds no rows")
    records = list(found.values())
    if limit is not None and limit < len(records):
        chosen = sorted(random.Random(seed).sample(range(len(records)), limit))
        records = [records[i] for i in chosen]
    return records


def _shipped() -> Any:
    """Return the folder of shipped data."""
    return resources.files("lite_huatuo.data.demo")
