"""Benchmarks: which questions are asked, in which words and order, and by which rule replies are read."""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lite_huatuo import schema
from lite_huatuo.data import sources
from lite_huatuo.errors import RecipeError, RecordError
from lite_huatuo.prompts import exam
from lite_huatuo.records import ExamQuestion
from lite_huatuo.schema import Section

# Options that speak of other options, or of where they stand, keep their places.
_SPEAKS_OF_OTHERS = re.compile(
    r"\b(?:above|below)\b|\b(?:both|neither|none|all) of (?:these|those|them)\b|以上|以下|上述|都是|均是|"
    r"(?-i:^(?:[Bb]oth\s+)?\(?[A-J]\)?(?:\s*(?:,|&|and|、|和)\s*\(?[A-J]\)?)+(?:\s+only)?$)",
    re.IGNORECASE,
)


class Only(Section):
    """Rows to keep: those whose first field of `fields` that they have holds one of `values`."""

    fields: list[str]
    values: list[str]


class Benchmark(Section):
    """One benchmark, as benchmarks.yaml describes it."""

    title: str
    sources: list[str] = Field(min_length=1)
    only: Only | None = None
    prompt: str
    rule: Literal["strict", "last_stated", "first_stated"] = "strict"
    version: int = Field(ge=1)
    column: str | None = None
    runs: int = Field(default=1, ge=1)
    shuffle: bool = False

    @field_validator("prompt")
    @classmethod
    def _a_known_prompt(cls, value: str) -> str:
        if value not in exam.PROMPTS:
            raise ValueError(f"prompt: {value!r} is not one of {', '.join(exam.PROMPTS)}")
        return value


@dataclass(frozen=True)
class Loaded:
    """The questions of a benchmark, and why rows were refused ("where: reason")."""

    questions: list[ExamQuestion]
    refused: list[str]


def shipped() -> dict[str, Benchmark]:
    """Return the benchmarks that come with the package, by name."""
    file = resources.files("lite_huatuo.evaluation") / "benchmarks.yaml"
    return _read(file.read_text(encoding="utf-8"), "benchmarks.yaml")


def own(path: Path) -> dict[str, Benchmark]:
    """Return the benchmarks of a user's YAML file, in the form of benchmarks.yaml."""
    try:
        return _read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None


def choose(word: str, known: dict[str, Benchmark]) -> tuple[str, Benchmark]:
    """Return (name, benchmark) for a NAME, or for NAME=FILE: the same benchmark with its questions from a file."""
    name, equals, file = word.partition("=")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise RecipeError(f"{name}: no such benchmark; {hint}")
    if equals and not file:
        raise RecipeError(f"{word}: no file after =; write {name}=questions.jsonl")
    return name, known[name].model_copy(update={"sources": [file]}) if file else known[name]


def load(benchmark: Benchmark) -> Loaded:
    """Read a benchmark's questions in the order of its sources. A question that comes again counts once; a row that
    cannot be used is refused with its reason, and is in no score."""
    found: dict[str, ExamQuestion] = {}
    refused: list[str] = []
    for source in benchmark.sources:
        for where, row, question in sources.iter_exams(source):
            if benchmark.only is not None and not _wanted(row, benchmark.only, where):
                continue
            if isinstance(question, RecordError):
                refused.append(str(question))
                continue
            if found.setdefault(question.id, question) != question:
                raise RecordError(f"{where}: id {question.id} was used before for another question; ids must be unique")
    if not found:
        first = f"; the first row that was refused: {refused[0]}" if refused else ""
        raise RecordError(f"{', '.join(benchmark.sources)}: no questions for {benchmark.title}{first}")
    return Loaded(list(found.values()), refused)


def draw(questions: Sequence[ExamQuestion], limit: int | None, seed: int = 0) -> list[ExamQuestion]:
    """Return `limit` questions in their order, drawn by the seed and their ids; more of them include the fewer."""
    if limit is None or limit >= len(questions):
        return list(questions)
    chosen = set(sorted((question.id for question in questions), key=lambda id: _digest(str(seed), id))[:limit])
    return [question for question in questions if question.id in chosen]


def arrange(question: ExamQuestion, run: int, *, shuffle: bool) -> ExamQuestion:
    """Return the question as run number `run` asks it. With `shuffle` every run but 0 has the options' texts in another
    order, drawn from run and id; options that speak of others ("all of the above") leave the question as it is."""
    letters = list(question.options)
    if not shuffle or run == 0 or any(_SPEAKS_OF_OTHERS.search(text) for text in question.options.values()):
        return question
    order = list(letters)
    random.Random(f"{run}/{question.id}").shuffle(order)
    options = {new: question.options[old] for new, old in zip(letters, order, strict=True)}
    answer_idx = "".join(sorted(letters[order.index(old)] for old in question.answer_idx))
    return replace(
        question, options=options, answer_idx=answer_idx, answer="; ".join(options[letter] for letter in answer_idx)
    )


def ask(benchmark: Benchmark, question: ExamQuestion) -> str:
    """Return the question in the benchmark's words."""
    return exam.ask(benchmark.prompt, question.language, question.question, question.options, question.context)


def _read(source: str, where: str) -> dict[str, Benchmark]:
    tree = schema.parse(source, where)
    if not isinstance(tree, dict) or not all(isinstance(each, dict) for each in tree.values()):
        raise RecipeError(f"{where}: expected a mapping of benchmarks by name")
    bad = [str(name) for name in tree if not re.fullmatch(r"[a-z0-9_]+", str(name))]
    if bad:
        raise RecipeError(f"{where}: {bad[0]!r}: a benchmark's name is of small letters, digits and _")
    return {str(name): schema.check(Benchmark, each, f"{where}: {name}") for name, each in tree.items()}


def _wanted(row: Any, only: Only, where: str) -> bool:
    field = next((name for name in only.fields if name in row), None)
    if field is None:
        raise RecordError(f"{where}: the row has none of the fields {', '.join(only.fields)}, by which rows are chosen")
    return str(row[field]).strip() in only.values


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
