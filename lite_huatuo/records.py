"""Every record that touches disk. The published field names of other data sets are known here and nowhere else.

A reader function takes one decoded row and `where` ("file:line"), and returns a record or raises RecordError.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from lite_huatuo.errors import RecordError

# Our own field name first, then the published ones (FreedomIntelligence/medical-o1-*, HuatuoGPT-o1 data).
PROBLEM_QUESTION = ("Open-ended Verifiable Question", "question", "Question")
SFT_QUESTION = ("Question", "question", "Open-ended Verifiable Question")
GROUND_TRUTH = ("ground_truth", "Ground-True Answer", "Ground-Truth Answer")
COMPLEX_COT = ("complex_cot", "Complex_CoT")
RESPONSE = ("response", "Response")
NAN = ("nan", "NaN", "<NA>", "NaT")  # as pandas writes what is missing


@dataclass(frozen=True)
class ExamQuestion:
    """A multiple-choice item; `answer_idx` holds the right letter, or several letters run together."""

    id: str
    question: str
    options: dict[str, str]
    answer_idx: str
    answer: str
    language: str = "en"
    source: str = ""
    context: str | None = None


@dataclass(frozen=True)
class VerifiableProblem:
    """An open question with one short, objective ground truth."""

    id: str
    question: str
    ground_truth: str
    language: str = "en"
    source: str = ""


@dataclass(frozen=True)
class Round:
    """One turn of the search: the strategy drawn, the thought steps {action, title, content}, and the verdict."""

    strategy: str
    steps: list[dict[str, str]]
    conclusion: str
    verdict: bool | None
    teacher: str


@dataclass(frozen=True)
class Trajectory:
    """What the search recorded for one problem: attempts, each a list of rounds."""

    id: str
    problem: VerifiableProblem
    attempts: list[list[Round]]
    solved: bool
    label_guided: bool = False


@dataclass(frozen=True)
class SFTExample:
    """A question with the complex CoT and the response the student is to write."""

    id: str
    question: str
    complex_cot: str
    response: str
    ground_truth: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


Record = TypeVar("Record", ExamQuestion, VerifiableProblem, SFTExample)


def to_row(record: Any) -> dict[str, Any]:
    """Return the record as a plain dictionary, fields that are None left out."""
    return {key: value for key, value in asdict(record).items() if value is not None}


def detect_language(text: str) -> str:
    """Return "zh" where at least a fifth of the characters are Han, else "en"."""
    han = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return "zh" if text and han >= len(text) / 5 else "en"


def problem_from_row(row: Mapping[str, Any], where: str) -> VerifiableProblem:
    """Read a verifiable problem in our own or the published form."""
    row = without_nan(row)
    question = _text(row, PROBLEM_QUESTION, "question", where)
    if "ground_truth" in row:  # our own form: its `question` is the open question
        question = _text(row, ("question", *PROBLEM_QUESTION), "question", where)
    ground_truth = _text(row, GROUND_TRUTH, "ground truth", where)
    problem = VerifiableProblem(
        id=_id(row, question, ground_truth),
        question=question,
        ground_truth=ground_truth,
        language=str(row.get("language") or detect_language(question)),
        source=str(row.get("source") or ""),
    )
    return sound(problem, where)


def sft_from_row(row: Mapping[str, Any], where: str) -> SFTExample:
    """Read an SFT example in our own or the published form."""
    row = without_nan(row)
    question = _text(row, ("question",) if "complex_cot" in row else SFT_QUESTION, "question", where)
    provenance = row.get("provenance") or {"origin": "published"}
    if not isinstance(provenance, Mapping):
        raise RecordError(f"{where}: provenance must be an object, not {type(provenance).__name__}")
    complex_cot = _text(row, COMPLEX_COT, "complex CoT", where)
    response = _text(row, RESPONSE, "response", where)
    example = SFTExample(
        id=_id(row, question, complex_cot, response),
        question=question,
        complex_cot=complex_cot,
        response=response,
        ground_truth=next((str(row[key]) for key in GROUND_TRUTH if row.get(key)), None),
        provenance=dict(provenance),
    )
    return sound(example, where)


def given(row: Mapping[str, Any], name: str) -> Any:
    """Return a field that may be missing, None where it is; tables hold NaN in the place of what is missing."""
    value = row.get(name)
    return None if _is_nan(value) else value


def without_nan(value: Any) -> Any:
    """Return a row, or a part of one, with None in the place of every NaN, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return None if _is_nan(value) else value


def _is_nan(value: Any) -> bool:
    """True for a number that is none, and for the words by which tables write one as text."""
    return (isinstance(value, float) and value != value) or (isinstance(value, str) and value.strip() in NAN)


def letters(value: Any) -> str:
    """Return the letters an answer field names, sorted and without repeats ("Ｂ、a" gives "AB"), "" for other text."""
    text = unicodedata.normalize("NFKC", str(value)).strip().upper()
    if not re.fullmatch(r"\(?[A-Z][\s().:、,;/&+A-Z]{0,80}", text):
        return ""
    found = re.findall(r"[A-Z]", text)
    return "".join(sorted(set(found))) if len(set(found)) == len(found) else ""


def sound(record: Record, where: str) -> Record:
    """Return the record, which can be written; RecordError where a field holds what no file can."""
    try:
        json.dumps(asdict(record), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # half a character, an infinite number
        raise RecordError(f"{where}: cannot be written to a file again ({error}); mend or remove the row") from None
    return record


def _text(row: Mapping[str, Any], names: tuple[str, ...], what: str, where: str) -> str:
    """Return the first of the named fields that the row has; it must be non-empty text (numbers become text)."""
    for name in names:
        if row.get(name) is not None:
            value = row[name]
            finite = isinstance(value, (int, float)) and value - value == 0  # infinity is no text
            if finite and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str):
                raise RecordError(f"{where}: {what} ({name}) must be text, not {type(value).__name__}")
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise RecordError(
                    f"{where}: {what} ({name}) holds half a character (a lone surrogate); mend or remove the row"
                )
            if value.strip():
                return value.strip()
            raise RecordError(f"{where}: empty {what} ({name}); fill it or remove the row")
    raise RecordError(f"{where}: missing {what}; expected one of the fields {', '.join(names)}")


def _id(row: Mapping[str, Any], *content: str) -> str:
    """Return the row's own id, or one made of the record's content, so that it is the same on every reading."""
    if row.get("id") not in (None, ""):
        return str(row["id"])
    return "q-" + hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]
