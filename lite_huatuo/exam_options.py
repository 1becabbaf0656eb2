"""The options of an exam row in every published shape: a list, a mapping, lines of text, or one column for each.

Columns are a family of names that end in a letter or number: opa, opb, … (MedMCQA, Medbullets), option_a, Option 1,
or the letters alone (CMMLU). However many a row has, all of them are options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lite_huatuo.errors import RecordError
from lite_huatuo.records import given, letters

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTIONS = ("options", "Options", "option", "choices", "answers")
_COLUMN = re.compile(r"(op|opt|option|choice)[ _-]?([a-z]|\d{1,2})|([a-z])", re.IGNORECASE)
_ALONE = ""  # the family of columns that are letters alone
_USUAL = 10  # letters: published questions have at most ten options
_ENTRY_LETTER = ("key", "letter", "label", "id")
_ENTRY_TEXT = ("value", "content", "text")


def pairs(row: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    """Return (letter, text as it stands) of every option; "" is the letter of what has none. RecordError without any.

    Columns op… go before the field `options`, the other columns after it.
    """
    columns = _columns(row, where)
    if "op" in columns:
        return columns["op"]
    raw = next((row[name] for name in OPTIONS if given(row, name) not in (None, "")), None)
    if isinstance(raw, str):
        return _lines(raw)
    if isinstance(raw, Mapping):
        return [(letters(key), value) for key, value in raw.items()]
    if isinstance(raw, Sequence):
        return [_pair(entry, number) for number, entry in enumerate(raw)]
    if columns:
        return next(iter(columns.values()))
    raise RecordError(f"{where}: no options: expected one of the fields {', '.join(OPTIONS)}, or columns opa, opb, …")


def letter_at(position: int | None) -> str:
    """Return the letter at a position from 0, "" where there is none."""
    return LETTERS[position] if position is not None and position < len(LETTERS) else ""


def index(value: Any, base: int) -> int | None:
    """Return a position from 0 for a number, or a number written as text, that counts from `base`.

    Tables write whole numbers with a point where a column has gaps: 2.0 is 2.
    """
    text = str(value).strip().removesuffix(".0")
    return int(text) - base if text.isdecimal() and int(text) >= base else None


def _columns(row: Mapping[str, Any], where: str) -> dict[str, list[tuple[str, Any]]]:
    """Return {family: its options}, of families that have a text in two columns or more."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in row.items():
        match = _COLUMN.fullmatch(name) if isinstance(name, str) and name not in OPTIONS else None
        if match is None:
            continue
        marks = found.setdefault((match[1] or _ALONE).lower(), {})
        mark = (match[2] or match[3]).upper()
        if mark in marks:
            raise RecordError(f"{where}: bad options: two columns are option {mark}; keep one of them")
        marks[mark] = value
    families = {family: _lettered(marks) for family, marks in found.items()}
    if _ALONE in families:
        families[_ALONE] = _run(families[_ALONE], where)
    return {family: columns for family, columns in families.items() if sum(v not in (None, "") for _, v in columns) > 1}


def _lettered(marks: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the columns of a family by letter; numbers count from 1, or from 0 where there is a 0."""
    if any(mark.isdigit() for mark in marks):
        base = 0 if {"0", "00"} & set(marks) else 1
        return sorted((letter_at(index(mark, base)), value) for mark, value in marks.items())
    return sorted(marks.items())


def _run(columns: list[tuple[str, Any]], where: str) -> list[tuple[str, Any]]:
    """Return the columns A, B, … without a gap. Lone letters after a gap may mean anything: none is left out unseen."""
    names = "".join(letter for letter, _ in columns)
    run = next((size for size, letter in enumerate(LETTERS) if letter not in names), len(LETTERS))
    after = [letter for letter in names[run:] if letter in LETTERS[:_USUAL]]
    if run > 1 and after:
        raise RecordError(
            f"{where}: bad options: column {LETTERS[run]} is missing before {after[0]}; add it, or rename"
        )
    return columns[:run] if run > 1 else []


def _lines(text: str) -> list[tuple[str, Any]]:
    """Read CMExam's options, one a line as "A text"; a line without the next letter belongs to the option before."""
    found: list[tuple[str, Any]] = []
    for line in text.split("\n"):
        start = re.match(r"\s*([A-Z])(?:[\s.、．:：]+|$)", line)
        if start and start[1] == LETTERS[len(found) : len(found) + 1]:
            found.append((start[1], line[start.end() :]))
        elif line.strip() and found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        elif line.strip():
            found.append(("", line))  # text before the first letter: refused with the letters
    return found


def _pair(entry: Any, number: int) -> tuple[str, Any]:
    """Return (letter, text) of one entry of an option list: text, {key, value}, MedXpertQA's {letter, content},
    HEAD-QA's {aid, atext} or {letter: text}."""
    if not isinstance(entry, Mapping):
        return letter_at(number), entry
    if "aid" in entry:
        return letter_at(index(entry["aid"], 1)), entry.get("atext")
    text = next((entry[name] for name in _ENTRY_TEXT if name in entry), None)
    mark = next((letters(entry[name]) for name in _ENTRY_LETTER if name in entry), "")
    if text is None and len(entry) == 1:
        ((mark, text),) = ((letters(name), value) for name, value in entry.items())
    return mark, text
