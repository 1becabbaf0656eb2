"""Exam questions as published: from a row of MedQA (US, MCMLE), MedMCQA, CMExam, CMB, HEAD-QA, MMLU-Pro, GPQA,
PubMedQA, CMMLU or the general form to an `ExamQuestion`. With records.py, the only place that knows other data sets'
field names.

A row is refused (RecordError) where its right answer is missing, is not one of its options, or is told in two ways that
differ, and where the question needs a picture that comes as a field of its own. The message reads
"where: kind: detail", so that refusals can be counted by kind.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lite_huatuo.errors import RecordError
from lite_huatuo.records import ExamQuestion, detect_language, given, sound

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTION = ("question", "Question", "qtext")
OPTIONS = ("options", "Options", "option", "choices", "answers")
MEDMCQA_OPTIONS = ("opa", "opb", "opc", "opd")
LETTER = ("answer_idx", "Answer", "answer")  # a letter, several letters, or (last) the text of the right option
CONTEXT = ("context", "CONTEXTS", "passage")
GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
DECISIONS = ("yes", "no", "maybe")  # PubMedQA
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "`": "`"}


def exam_from_row(row: Mapping[str, Any], where: str, *, cop_base: int = 0) -> ExamQuestion:
    """Read one exam question. `cop_base` is 0 or 1: from where MedMCQA's `cop` counts (see the function `cop_base`)."""
    row = _with_options(row)
    question = _text(_first(row, QUESTION), "question", where)
    if not question:
        raise RecordError(f"{where}: no question: expected one of the fields {', '.join(QUESTION)}")
    if row.get("image"):  # HEAD-QA
        raise RecordError(f"{where}: needs a picture: the row has an image, and questions here are text only")
    options = _options(row, where)
    answer_idx = _answer_idx(row, options, cop_base, where)
    context = _first(row, CONTEXT)
    if isinstance(context, Mapping):  # PubMedQA's copy on the Hub
        context = context.get("contexts")
    if isinstance(context, Sequence) and not isinstance(context, str):
        context = "\n".join(str(part) for part in context)
    exam = ExamQuestion(
        id=_id(row, question, options),
        question=question,
        options=options,
        answer_idx=answer_idx,
        answer="; ".join(options[letter] for letter in answer_idx),
        language=str(given(row, "language") or detect_language(question)),
        source=str(given(row, "source") or _dialect(row)),
        context=_text(context, "context", where) or None,
    )
    return sound(exam, where)


def _with_options(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row that has its options spread over fields, or none, in the general form; others come back as they are.

    GPQA's rows name the right answer first: they get an order that follows from the texts.
    """
    if all(name in row for name in GPQA_OPTIONS):
        texts = [str(row[name]) for name in GPQA_OPTIONS]
        order = sorted(texts, key=lambda text: hashlib.sha256(f"{row.get('Question')}\0{text}".encode()).hexdigest())
        own = {"question": row.get("Question"), "options": order, "answer_idx": LETTERS[order.index(texts[0])]}
        return {**own, "id": row.get("Record ID"), "source": "GPQA"}
    if _first(row, OPTIONS) is None and str(row.get("final_decision")).strip().lower() in DECISIONS:
        decision = DECISIONS.index(str(row["final_decision"]).strip().lower())
        own = {"options": list(DECISIONS), "answer_idx": LETTERS[decision], "source": "PubMedQA"}
        return {**row, **own, "id": row.get("pubid") or row.get("id")}
    if _first(row, OPTIONS) is None and all(letter in row for letter in "ABCD"):  # CMMLU
        return {**row, "options": {letter: row[letter] for letter in LETTERS if letter in row}}
    return row


def cop_base(values: set[Any]) -> int:
    """Return from where MedMCQA's `cop` counts in a file that has these values.

    The Hub's copy counts from 0, the authors' own file from 1; -1 stands for an answer that was kept back. Raise
    RecordError where both or neither can be.
    """
    counted = {str(value).strip() for value in values} - {"-1", "", "None"}
    if {"0", "4"} <= counted:
        raise RecordError("MedMCQA rows: `cop` has both 0 and 4, so it counts neither from 0 nor from 1; mend the file")
    if counted and not counted & {"0", "4"}:
        raise RecordError(
            "MedMCQA rows: `cop` has neither 0 nor 4, so it may count from 0 (the Hub's copy) or from 1 (the authors' "
            "file); say which, or write the letter as `answer_idx`"
        )
    return 1 if "4" in counted else 0


def clean(value: Any) -> str:
    """Return the text without surrounding space and stray quotes: a pair around it all, or a lone one at an end."""
    text = unicodedata.normalize("NFC", str(value if value is not None else "")).strip()
    while len(text) > 1 and QUOTES.get(text[0]) == text[-1] and not set(text[1:-1]) & {text[0], text[-1]}:
        text = text[1:-1].strip()
    marks = [character for character in text if character in '"“”']
    if len(marks) == 1 and marks[0] in (text[0], text[-1]) and not re.search(r'\d"$', text):  # 5" is five inches
        text = text.strip('"“”').strip()
    return text


def letters(value: Any) -> str:
    """Return the letters an answer field names, sorted and without repeats ("Ｂ、a" gives "AB"), "" for other text."""
    text = unicodedata.normalize("NFKC", str(value)).strip().upper()
    if not re.fullmatch(r"\(?[A-Z][\s().:、,;/&+A-Z]{0,80}", text):
        return ""
    found = re.findall(r"[A-Z]", text)
    return "".join(sorted(set(found))) if len(set(found)) == len(found) else ""


def _text(value: Any, what: str, where: str) -> str:
    """Return a text (or a number as text) cleaned, "" for None; other types and broken text are refused."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
        raise RecordError(f"{where}: not text: {what} must be text, not {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in str(value)):
        raise RecordError(f"{where}: not text: {what} holds half a character (a lone surrogate)")
    return clean(value)


def _options(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return {letter: text} in letter order from any of the published shapes; empty options are left out."""
    if all(name in row for name in MEDMCQA_OPTIONS):
        raw: Any = [row[name] for name in MEDMCQA_OPTIONS]
    else:
        raw = _first(row, OPTIONS)
    if isinstance(raw, str):
        pairs: list[tuple[str, Any]] = _lines(raw)
    elif isinstance(raw, Mapping):
        pairs = [(letters(key), value) for key, value in raw.items()]
    elif isinstance(raw, Sequence):
        pairs = [_pair(entry, number) for number, entry in enumerate(raw)]
    else:
        raise RecordError(f"{where}: no options: expected one of the fields {', '.join(OPTIONS)}")
    options = {letter: _text(value, f"option {letter}", where) for letter, value in pairs}
    if len(options) != len(pairs) or any(len(letter) != 1 for letter in options):
        raise RecordError(f"{where}: bad options: they must have one letter each, A to Z, none twice")
    padding = "N/A" if "answer_index" in row else ""  # MMLU-Pro fills up to ten options
    options = {letter: text for letter, text in sorted(options.items()) if text not in ("", padding)}
    if len(options) < 2:
        raise RecordError(f"{where}: bad options: at least two are needed, found {len(options)}")
    return options


def _lines(text: str) -> list[tuple[str, Any]]:
    """Read CMExam's options, one a line as "A text"; a line without the next letter belongs to the option before."""
    pairs: list[tuple[str, Any]] = []
    for line in text.split("\n"):
        start = re.match(r"\s*([A-Z])(?:[\s.、．:：]+|$)", line)
        if start and start[1] == LETTERS[len(pairs) : len(pairs) + 1]:
            pairs.append((start[1], line[start.end() :]))
        elif line.strip() and pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}\n{line}")
        elif line.strip():
            pairs.append(("", line))  # text before the first letter: refused with the letters
    return pairs


def _pair(entry: Any, number: int) -> tuple[str, Any]:
    """Return (letter, text) of one entry of an option list: text, {key, value} or HEAD-QA's {aid, atext}."""
    if not isinstance(entry, Mapping):
        return _letter(number), entry
    if "aid" in entry:
        return _letter(_index(entry["aid"], 1)), entry.get("atext")
    return letters(entry.get("key", "")), entry.get("value")


def _letter(position: int | None) -> str:
    """Return the letter at a position from 0, "" where there is none."""
    return LETTERS[position] if position is not None and position < len(LETTERS) else ""


def _answer_idx(row: Mapping[str, Any], options: dict[str, str], cop_base: int, where: str) -> str:
    """Return the right letter or letters. What else the row says of the answer must agree with them."""
    told: dict[str, str] = {}  # field -> letters
    for name, base in (("cop", cop_base), ("ra", 1), ("answer_index", 0)):
        if str(row.get(name, "-1")).strip() not in ("-1", "", "None"):
            told[name] = _letter(_index(row[name], base)) or f"{row[name]!r}"
    for name in LETTER:
        if isinstance(row.get(name), (int, float)) and not told:
            raise RecordError(f"{where}: bad answer: {name} is a number; write the option's letter as `answer_idx`")
        value = _text(row.get(name), name, where)
        if value:
            told[name] = _letters_meant(value, options, told)
    if not told:
        raise RecordError(f"{where}: no answer: expected one of the fields {', '.join(LETTER)}, cop, ra, answer_index")
    first = next(iter(told.values()))
    for name, meant in told.items():
        if not meant or not set(meant) <= set(options):
            raise RecordError(f"{where}: answer is no option: {name} {row[name]!r:.60}; options {', '.join(options)}")
        if [options[letter] for letter in meant] != [options[letter] for letter in first]:
            raise RecordError(f"{where}: answers differ: {' and '.join(sorted(set(told.values())))}")
    return first


def _letters_meant(value: str, options: dict[str, str], told: Mapping[str, str]) -> str:
    """Return the letters a text answer names, given those told so far; what is no option comes back as it is not one.

    A single letter is a letter, unless a letter was told before: beside `answer_idx`, `answer` "C" may be vitamin C.
    """
    by_letter = letters(value)
    if len(by_letter) == 1 and not told:
        return by_letter
    so_far = next(iter(told.values()), "")
    for form in (str, _exact_form, _loose_form):  # as written first: an option may be nothing but a sign
        same = [letter for letter, text in options.items() if form(text) and form(text) == form(value)]
        if same:
            return so_far if so_far in same else same[0]
    texts = [_loose_form(options.get(letter, "?")) for letter in so_far]
    if len(texts) > 1 and all(text in _loose_form(value) for text in texts):
        return so_far  # several right options in one text, which may look like letters: "x; y"
    return by_letter


def _exact_form(text: str) -> str:
    """Return a text without what never tells options apart: case, width, space, a full stop at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。;；,，")


def _loose_form(text: str) -> str:
    """Return the words of a text only."""
    return re.sub(r"\W+", " ", _exact_form(text)).strip()


def _index(value: Any, base: int) -> int | None:
    """Return a position from 0 for a number, or a number written as text, that counts from `base`."""
    text = str(value).strip()
    return int(text) - base if text.isdigit() and int(text) >= base else None


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first of the named fields that is there and not empty."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _dialect(row: Mapping[str, Any]) -> str:
    """Return whose rows look like this, "" where that cannot be told."""
    marks = {"opa": "MedMCQA", "qtext": "HEAD-QA", "exam_class": "CMB", "cot_content": "MMLU-Pro", "Options": "CMExam"}
    return next((name for mark, name in marks.items() if mark in row), "MedQA" if "meta_info" in row else "")


def _id(row: Mapping[str, Any], question: str, options: dict[str, str]) -> str:
    """Return the row's own id, made unique over exams where it is a number in one, or an id made of its content."""
    if given(row, "id") not in (None, ""):
        own = str(row["id"])
        name = re.sub(r"\W+", "-", str(given(row, "source") or _dialect(row))).lower()
        return f"{name}-{own}" if own.isdigit() and name else own
    if "qid" in row and row.get("name"):
        return f"headqa-{row['name']}-{row['qid']}"
    if "question_id" in row:
        return f"mmlu-pro-{row['question_id']}"
    content = "\0".join([question, *options.values()])
    return "exam-" + hashlib.sha256(content.encode()).hexdigest()[:16]
