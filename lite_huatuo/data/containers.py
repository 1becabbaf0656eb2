"""Rows out of a .json file, in whatever container it was published.

    [row, …]                    {"columns": …, "data": …}  pandas, split
    row, a line each            {column: {row: value}}     pandas; or {column: [value, …]}
    {id: row}                   {set: [row, …]}            HuatuoGPT-o1's eval_data.json, PubMedQA
    {"exams": {name: {"data": [row, …]}}}                  HEAD-QA: containers inside one another

What stands beside rows inside a container (year, category, language …) belongs to each of them. An object without rows
is refused with the names that it has: nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lite_huatuo import exam_rows, jsonl, records
from lite_huatuo.errors import RecordError

_QUESTION = {name.lower() for name in (*records.PROBLEM_QUESTION, *records.SFT_QUESTION, *exam_rows.QUESTION)}
_IDS = ("id", "pubid", "qid", "question_id", "Record ID")
_SHARED = ("name", "year", "category", "language", "source", "subject")  # facts of a container that its rows take over
_NO_SETS = ("data", "rows", "questions")  # names of lists that name no set
_DEEPEST = 6  # containers inside one another
Rows = Iterator[tuple[str, dict[str, Any]]]


def rows(path: Path) -> Rows:
    """Yield ("file[place]", row) of every row of a .json file; ("file:line", row) where it has a row a line."""
    text = jsonl.read_text(path)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not _has_lines(text):
            raise RecordError(f"{path}: not valid JSON ({jsonl.reason(error)})") from None
        yield from jsonl.iter_rows(path)
        return
    if isinstance(tree, list):
        yield from _listed(tree, str(path), {})
    elif isinstance(tree, dict):
        found = list(_inside(tree, str(path), {}, 0))
        if not found:
            raise RecordError(
                f"{path}: an object without rows that are known, with the fields {_short(tree)}; expected an array of "
                "objects, one object a line, {id: row}, {column: {row: value}} or {set: [rows]}, rows having one of "
                f"the fields {', '.join(sorted(_QUESTION))}"
            )
        yield from found
    else:
        raise RecordError(f"{path}: expected objects, found {type(tree).__name__}")


def _has_lines(text: str) -> bool:
    """True where the first line that is not empty is an object: JSON Lines under another name."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _inside(node: Mapping[str, Any], place: str, facts: Mapping[str, Any], depth: int) -> Rows:
    """Yield the rows of an object: of itself, of a table, or of the containers in it. None where it has none."""
    table = _table(node, place)
    if _is_row(node):
        yield place, {**facts, **node}
    elif table is not None:
        yield from _listed(table, place, facts)
    elif depth < _DEEPEST:
        facts = {**facts, **{name: node[name] for name in _SHARED if isinstance(node.get(name), (str, int))}}
        keyed = any(isinstance(child, dict) and _is_row(child) for child in node.values())
        numbered = all(name.isdecimal() and int(name) < len(node) for name in node)  # no ids, but places
        for name, child in node.items():
            there = f"{place}[{name}]"
            if keyed and isinstance(child, dict):
                own_id = any(child.get(key) is not None for key in _IDS)
                own = {} if numbered or own_id else {"id": f"{facts['set']}-{name}" if "set" in facts else name}
                yield there, {**facts, **own, **child}
            elif isinstance(child, dict):
                yield from _inside(child, there, {**facts, "set": name}, depth + 1)
            elif isinstance(child, list) and any(isinstance(one, dict) for one in child):
                yield from _listed(child, there, {**facts, "set": name} if name not in _NO_SETS else facts)
            elif keyed and not isinstance(child, (str, int)):
                raise RecordError(f"{there}: expected a JSON object, found {type(child).__name__}")


def _listed(found: Sequence[Any], place: str, facts: Mapping[str, Any]) -> Rows:
    for index, row in enumerate(found):
        if not isinstance(row, dict):
            raise RecordError(f"{place}[{index}]: expected a JSON object, found {type(row).__name__}")
        yield f"{place}[{index}]", {**facts, **row}


def _is_row(node: Mapping[str, Any]) -> bool:
    """True for an object whose question is a text."""
    return any(name.lower() in _QUESTION and isinstance(value, str) for name, value in node.items())


def _table(node: Mapping[str, Any], place: str) -> list[dict[str, Any]] | None:
    """Return the rows of a table that is kept by columns, None where the object is none."""
    if isinstance(node.get("columns"), list) and isinstance(node.get("data"), list):  # pandas, orient="split"
        lines = node["data"]
        if all(isinstance(line, list) and len(line) == len(node["columns"]) for line in lines):
            return [dict(zip(map(str, node["columns"]), line, strict=True)) for line in lines]
    asked = next((value for name, value in node.items() if name.lower() in _QUESTION), None)
    if isinstance(asked, dict) and not _is_row(asked):
        columns = {name: column for name, column in node.items() if isinstance(column, dict)}
        return [{name: column.get(key) for name, column in columns.items()} for key in asked]
    if isinstance(asked, list) and not any(isinstance(one, dict) for one in asked):
        lists = {name: column for name, column in node.items() if isinstance(column, list)}
        wrong = [name for name, column in lists.items() if len(column) != len(asked)]
        if wrong:
            raise RecordError(f"{place}: the column {wrong[0]} has {len(lists[wrong[0]])} values, not {len(asked)}")
        return [{name: column[index] for name, column in lists.items()} for index in range(len(asked))]
    return None


def _short(tree: Mapping[str, Any]) -> str:
    names = ", ".join(map(repr, list(tree)[:5]))
    return f"{names} and {len(tree) - 5} more" if len(tree) > 5 else names
