"""Where rows come from: shipped data, JSON and JSON Lines files, data sets on the Hugging Face Hub.

A source is written `shipped:<name>`, a path that ends in .json or .jsonl, or `org/name[:config][#split]`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError
from lite_huatuo.records import SFTExample, VerifiableProblem, problem_from_row, sft_from_row

SHIPPED = "shipped:"
Record = TypeVar("Record", SFTExample, VerifiableProblem)


def load_problems(source: str, *, limit: int | None = None, seed: int = 0) -> list[VerifiableProblem]:
    """Load verifiable problems; `limit` draws that many, kept in file order."""
    return _load(source, problem_from_row, limit, seed)


def load_sft(source: str, *, limit: int | None = None, seed: int = 0) -> list[SFTExample]:
    """Load SFT examples; `limit` draws that many, kept in file order."""
    return _load(source, sft_from_row, limit, seed)


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
        yield from jsonl.iter_rows(Path(source).expanduser())
    elif source.endswith(".json"):
        yield from jsonl.iter_json_rows(Path(source).expanduser())
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists():
        yield from _hub_rows(source)
    else:
        raise RecordError(
            f"{source}: not a data source; give a .json or .jsonl file, org/name on the Hub, or shipped:<name>"
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


def _hub_rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a Hub data set; no code of the data set's is run."""
    import datasets

    name, _, split = source.partition("#")
    name, _, config = name.partition(":")
    try:
        table = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the library raises many kinds, network errors among them
        reason = str(error).strip().split("\n")[0]
        raise RecordError(
            f"{source}: cannot be loaded from the Hub ({type(error).__name__}: {reason}); "
            "check the name, your network and HF_TOKEN, or give a local .json or .jsonl file"
        ) from None
    for index, row in enumerate(table):
        yield f"{source}[{index}]", row


def _shipped() -> Any:
    """Return the folder of shipped data."""
    return resources.files("lite_huatuo.data.demo")
