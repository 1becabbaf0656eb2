"""Where rows come from: shipped data, JSON and JSON Lines files, data sets on the Hugging Face Hub.

A source is written `shipped:<name>`, a path that ends in .json, .jsonl or .csv, or
`org/name[:config][@revision][#split]`.
"""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lite_huatuo import exam_rows, hub_access, jsonl
from lite_huatuo.errors import RecordError
from lite_huatuo.records import ExamQuestion, SFTExample, VerifiableProblem, problem_from_row, sft_from_row

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
    return _load(source, partial(exam_rows.exam_from_row, cop_base=cop_base(source)), limit, seed)


def iter_exams(source: str, *, base: int | None = None) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield ("where", row, ExamQuestion) one at a time, or the row's RecordError in the question's place.

    `base` is from where MedMCQA's `cop` counts; None finds it out by reading such a source once before.
    """
    base = cop_base(source) if base is None else base
    for where, row in rows(source):
        try:
            yield where, row, exam_rows.exam_from_row(row, where, cop_base=base)
        except RecordError as error:
            yield where, row, error


def cop_base(source: str) -> int:
    """Return from where MedMCQA's `cop` counts in a source, 0 for sources of another kind."""
    values: set[Any] = set()
    for _, row in rows(source):
        if "cop" not in row:
            break  # rows of another kind
        values.add(row["cop"])
    try:
        return exam_rows.cop_base(values)
    except RecordError as error:
        raise RecordError(f"{source}: {error}") from None


def rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("where", row) for every row of a source."""
    if source.startswith(SHIPPED):
        name = source[len(SHIPPED) :]
        known = sorted(entry.name[:-6] for entry in _shipped().iterdir() if entry.name.endswith(".jsonl"))
        if name not in known:
            raise RecordError(f"{source}: no such shipped data; there are {', '.join(SHIPPED + k for k in known)}")
        with resources.as_file(_shipped() / f"{name}.jsonl") as path:
            yield from jsonl.iter_rows(path)
    elif source.endswith(".jsonl"):
        yield from jsonl.iter_rows(Path(os.path.expanduser(source)))
    elif source.endswith(".json"):
        yield from jsonl.iter_json_rows(Path(os.path.expanduser(source)))
    elif source.endswith(".csv"):
        yield from _csv_rows(Path(os.path.expanduser(source)))
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists():
        yield from _hub_rows(source)
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


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("file:line", row) of a table whose first line names the columns; `line` is the row's last one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise RecordError(f"{where}: the row has more or fewer cells than the first line; mend it")
                yield where, row
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text ({error.reason}); convert it first") from None
    except csv.Error as error:
        raise RecordError(f"{path}: not a table of comma-separated values ({error})") from None


def _hub_rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a Hub data set; no code of the data set's is run."""
    import datasets

    name, _, split = source.partition("#")
    name, _, revision = name.partition("@")
    name, _, config = name.partition(":")
    unasked = hub_access.failure()
    try:
        pinned = {"revision": revision} if revision else {}
        table = datasets.load_dataset(name, config or None, split=split or "train", **pinned)
    except Exception as error:  # the library raises many kinds, network errors among them
        reason = unasked or f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        raise RecordError(
            f"{source}: cannot be loaded from the Hub ({reason}); "
            "check the name, your network and HF_TOKEN, or give a local .json or .jsonl file"
        ) from None
    for index, row in enumerate(table):
        yield f"{source}[{index}]", row


def _shipped() -> Any:
    """Return the folder of shipped data."""
    return resources.files("lite_huatuo.data.demo")
