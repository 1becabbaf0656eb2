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

from lite_huatuo import exam_options
from lite_huatuo.errors import RecordError
from lite_huatuo.exam_options import LETTERS, OPTIONS, letter_at
from lite_huatuo.records import ExamQuestion, detect_language, letters, sound, without_nan

QUESTION = ("question", "Question", "qtext")
LETTER = ("answer_idx", "Answer", "answer")  # a letter, several letters, or (last) the text of the right option
LABEL = "label"  # MedXpertQA's letter; elsewhere it may be anything, so it counts only where nothing else answers
CONTEXT = ("context", "CONTEXTS", "passage")
PICTURE = ("image", "images")  # HEAD-QA, MedXpertQA
_NAMES = {*QUESTION, *OPTIONS, *LETTER, LABEL, *CONTEXT, *PICTURE, "cop", "ra", "answer_index", "final_decision", "id"}
_RIGHT, _WRONG = "Correct Answer", re.compile(r"Incorrect Answer \d")  # GPQA
_CHOICES_AGAIN = re.compile(r"\s*Answer Choices:\s*\(A\).*", re.DOTALL)
DECISIONS = ("yes", "no", "maybe")  # PubMedQA
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "`": "`"}


def exam_from_row(row: Mapping[str, Any], where: str, *, cop_base: int | None = None) -> ExamQuestion:
    """Read one exam question. `cop_base` is 0 or 1: from where MedMCQA's `cop` counts (see `cop_bases`). Without it a
    row is refused whose `cop` is needed."""
    row = _with_options(_named(without_nan(row)))
    question = _text(_first(row, QUESTION), "question", where)
    if not question:
        raise RecordError(f"{where}: no question: expected one of the fields {', '.join(QUESTION)}")
    if any(row.get(name) for name in PICTURE):
        raise RecordError(f"{where}: needs a picture: the row has an image, and questions here are text only")
    options = _options(row, where)
    question = _without_choices(question, options)
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
        language=str(row.get("language") or detect_language(question)),
        source=str(row.get("source") or _dialect(row) or row.get("set") or ""),
        context=_text(context, "context", where) or None,
    )
    return sound(exam, where)


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose fields in other letters' cases ("QUESTION", "Options") have the names that are known."""
    lower = {name: name.lower() for name in row if isinstance(name, str) and name not in _NAMES}
    return {lower[name] if lower.get(name) in _NAMES - set(row) else name: value for name, value in row.items()}


def _without_choices(question: str, options: Mapping[str, str]) -> str:
    """Return a question without the list of its options at its end, as MedXpertQA has it."""
    found = _CHOICES_AGAIN.search(question)
    again = found is not None and all(text in found[0] for text in options.values())
    return question[: found.start()].rstrip() if found is not None and again else question


def _with_options(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row that has its options spread over fields, or none, in the general form; others come back as they are.

    GPQA's rows name the right answer first: they get an order that follows from the texts.
    """
    wrong = [name for name in row if isinstance(name, str) and _WRONG.fullmatch(name) and row[name] is not None]
    if row.get(_RIGHT) is not None and wrong:
        texts = [str(row[name]) for name in (_RIGHT, *sorted(wrong))]
        order = sorted(texts, key=lambda text: hashlib.sha256(f"{row.get('Question')}\0{text}".encode()).hexdigest())
        own = {"question": row.get("Question"), "options": order, "answer_idx": LETTERS[order.index(texts[0])]}
        return {**own, "id": row.get("Record ID"), "source": "GPQA"}
    if _first(row, OPTIONS) is None and str(row.get("final_decision")).strip().lower() in DECISIONS:
        decision = DECISIONS.index(str(row["final_decision"]).strip().lower())
        own = {"options": list(DECISIONS), "answer_idx": LETTERS[decision], "source": "PubMedQA"}
        return {**row, **own, "id": row.get("pubid") or row.get("id")}
    return row


def cop_bases(row: Mapping[str, Any]) -> frozenset[int] | None:
    """Return from where MedMCQA's `cop` can count as this row has it (0, 1 or both); None where it does not tell.

    The Hub's copy counts from 0, the authors' own file from 1; -1 stands for an answer that was kept back. A row tells
    by a `cop` that one of the two leaves without an option, or by an `answer_idx` beside it.
    """
    row = _named(without_nan(row))
    number = exam_options.index(row.get("cop"), 0)
    try:
        size = len(exam_options.pairs(row, ""))
    except RecordError:
        size = 0
    bases = {base for base in (0, 1) if number is not None and 0 <= number - base < size}
    told = letters(row.get("answer_idx") or "")
    if len(told) == 1:
        bases = {base for base in bases if number is not None and number - base == LETTERS.index(told)}
    return frozenset(bases) or None


def clean(value: Any) -> str:
    """Return the text without surrounding space and stray quotes: a pair around it all, or a lone one at an end."""
    text = unicodedata.normalize("NFC", str(value if value is not None else "")).strip()
    while len(text) > 1 and QUOTES.get(text[0]) == text[-1] and not set(text[1:-1]) & {text[0], text[-1]}:
        text = text[1:-1].strip()
    marks = [character for character in text if character in '"“”']
    if len(marks) == 1 and marks[0] in (text[0], text[-1]) and not re.search(r'\d"$', text):  # 5" is five inches
        text = text.strip('"“”').strip()
    return text


def _text(value: Any, what: str, where: str) -> str:
    """Return a text (or a number as text) cleaned, "" for None; other types and broken text are refused."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
        raise RecordError(f"{where}: not text: {what} must be text, not {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in str(value)):
        raise RecordError(f"{where}: not text: {what} holds half a character (a lone surrogate)")
    return clean(value)


def _options(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return {letter: text} in letter order from any of the published shapes; empty options are left out."""
    pairs = exam_options.pairs(row, where)
    options = {letter: _text(value, f"option {letter}", where) for letter, value in pairs}
    if len(options) != len(pairs) or any(len(letter) != 1 for letter in options):
        raise RecordError(f"{where}: bad options: they must have one letter each, A to Z, none twice")
    padding = "N/A" if "answer_index" in row else ""  # MMLU-Pro fills up to ten options
    options = {letter: text for letter, text in sorted(options.items()) if text not in ("", padding)}
    if len(options) < 2:
        raise RecordError(f"{where}: bad options: at least two are needed, found {len(options)}")
    return options


def _answer_idx(row: Mapping[str, Any], options: dict[str, str], cop_base: int | None, where: str) -> str:
    """Return the right letter or letters. What else the row says of the answer must agree with them."""
    told: dict[str, str] = {}  # field -> letters
    for name, base in (("cop", cop_base), ("ra", 1), ("answer_index", 0)):
        if base is not None and _told(row.get(name)):
            told[name] = letter_at(exam_options.index(row[name], base)) or f"{row[name]!r}"
    for name in (*LETTER, LABEL):
        if name == LABEL and told:
            continue
        if isinstance(row.get(name), (int, float)) and not told:
            raise RecordError(f"{where}: bad answer: {name} is a number; write the option's letter as `answer_idx`")
        value = _text(row.get(name), name, where)
        if value:
            told[name] = _letters_meant(value, options, told)
    if not told and _told(row.get("cop")):
        raise RecordError(f"{where}: bad answer: `cop` counts from 0 or from 1, which this row alone does not say")
    if not told:
        raise RecordError(f"{where}: no answer: expected one of the fields {', '.join(LETTER)}, cop, ra, answer_index")
    first = next(iter(told.values()))
    for name, meant in told.items():
        if not meant or not set(meant) <= set(options):
            raise RecordError(f"{where}: answer is no option: {name} {row[name]!r:.60}; options {', '.join(options)}")
        if [options[letter] for letter in meant] != [options[letter] for letter in first]:
            raise RecordError(f"{where}: answers differ: {' and '.join(sorted(set(told.values())))}")
    return first


def _told(number: Any) -> bool:
    """True where a field holds the number of an answer; -1 stands for one that was kept back."""
    return str(number).strip().removesuffix(".0") not in ("-1", "", "None")


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


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first of the named fields that is there and not empty."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _dialect(row: Mapping[str, Any]) -> str:
    """Return whose rows look like this, "" where that cannot be told."""
    marks = {
        "cop": "MedMCQA",
        "qtext": "HEAD-QA",
        "exam_class": "CMB",
        "cot_content": "MMLU-Pro",
        "Options": "CMExam",
        "body_system": "MedXpertQA",
    }
    return next(
        (name for mark, name in marks.items() if row.get(mark) is not None), "MedQA" if "meta_info" in row else ""
    )


def _id(row: Mapping[str, Any], question: str, options: dict[str, str]) -> str:
    """Return the row's own id, made unique over exams where it is a number in one, or an id made of its content."""
    if row.get("id") not in (None, ""):
        own = str(row["id"])
        name = re.sub(r"\W+", "-", str(row.get("source") or _dialect(row))).lower()
        return f"{name}-{own}" if own.isdigit() and name else own
    if "qid" in row and row.get("name"):
        return f"headqa-{row['name']}-{row['qid']}"
    if "question_id" in row:
        return f"mmlu-pro-{row['question_id']}"
    content = "\0".join([question, *options.values()])
    return "exam-" + hashlib.sha256(content.encode()).hexdigest()[:16]
