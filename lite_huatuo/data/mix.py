"""Put training data together from what the other steps made: how much of which kind, by a seed, told in a manifest.

The paper's composition: 20,000 problems to search, 20,000 others for RL, 4,000 closed questions (kept as multiple
choice) and 5,000 verifiable questions from outside medicine. It does not say to which of the two stages the last two
belong: here examples go to SFT, and questions go to search and RL by turns.

Nothing is in two places: a problem drawn for one is gone for all others, by its id and by its question's words.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, records
from lite_huatuo.data import side_files, sources, texts
from lite_huatuo.errors import RecordError
from lite_huatuo.manifest import digest
from lite_huatuo.records import ExamQuestion, SFTExample, VerifiableProblem, to_row

KINDS = ("search", "rl", "closed", "general")
PAPER = {"search": 20_000, "rl": 20_000, "closed": 4_000, "general": 5_000}
SFT, SEARCH, RL = "sft", "search", "rl"  # the outputs
MANIFEST = "manifest.json"
FILES = (*(f"{output}.jsonl" for output in (SFT, SEARCH, RL)), MANIFEST)
ASK_LETTER = {
    "en": "Answer with the letter and the text of the right option.",
    "zh": "请写出正确选项的字母和内容。",
}


@dataclass(frozen=True)
class Candidate:
    """A row that may be drawn: where it is, its place in the draw, and what tells the same problem again."""

    kind: str
    source: str
    row: int  # from 0, in its source
    order: bytes  # smallest is drawn first
    marks: frozenset[bytes]  # of its id and its question
    example: bool  # an SFT example, else a problem or closed question


def mix(
    folder: Path, inputs: Mapping[str, Sequence[str]], *, counts: Mapping[str, int] = PAPER, seed: int = 0
) -> dict[str, Any]:
    """Draw from sources by kind ({"search": ["problems.jsonl"], …}), write the outputs and the manifest, return it.

    Sources of "search" and "rl" may be the same; a pool too small for both is shared in the ratio of their counts. Rows
    are SFT examples, problems or exam questions; of kind "rl" examples are refused. Only outputs that get a row are
    written; rows stand in drawn order. Memory: the drawn rows, and some 300 bytes for each row of the sources.
    """
    for kind in inputs:
        if kind not in KINDS:
            raise RecordError(f"{kind}: no kind of training data; kinds are {', '.join(KINDS)}")
    wanted = {kind: counts.get(kind, 0) if inputs.get(kind) else 0 for kind in KINDS}
    found = {
        kind: [one for source in inputs.get(kind, ()) for one in _candidates(kind, source, seed)] for kind in KINDS
    }
    drawn = _draw(found, wanted)
    places = _places(drawn)
    written = {}
    folder.mkdir(parents=True, exist_ok=True)
    for output, chosen in places.items():
        path = side_files.new(folder / f"{output}.jsonl")
        path.unlink(missing_ok=True)  # of a mix that was killed
        if chosen:
            jsonl.write(path, _rows(chosen))
            told = {"rows": len(chosen), "kinds": _by_kind(chosen), "sha256": digest(path)}
            written[f"{output}.jsonl"] = told
    manifest = {
        "seed": seed,
        "kinds": {kind: {"asked": wanted[kind], "rows": len(found[kind]), "drawn": len(drawn[kind])} for kind in KINDS},
        "inputs": {
            kind: [{"source": source, "sha256": _source_hash(source)} for source in inputs.get(kind, ())]
            for kind in KINDS
        },
        "outputs": written,
    }
    jsonl.write_text(side_files.new(folder / MANIFEST), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    side_files.place(folder, FILES)
    return manifest


def closed_problem(exam: ExamQuestion) -> VerifiableProblem:
    """Return an exam question as a multiple-choice problem: options in its text, letter and text as its truth."""
    options = "\n".join(f"{letter}. {text}" for letter, text in exam.options.items())
    ask = ASK_LETTER.get(exam.language, ASK_LETTER["en"])
    context = f"{exam.context}\n\n" if exam.context else ""
    truth = "; ".join(f"{letter}. {exam.options[letter]}" for letter in exam.answer_idx)
    return VerifiableProblem(
        exam.id, f"{context}{exam.question}\n{options}\n\n{ask}", truth, exam.language, exam.source
    )


def _candidates(kind: str, source: str, seed: int) -> Iterator[Candidate]:
    """Yield the rows of a source as they may be drawn. The order depends on seed and question, not on file or place."""
    bases = sources.CopBases(source)
    for number, (where, row) in enumerate(sources.rows(source)):
        record = _read(row, where, bases)
        if kind == RL and isinstance(record, SFTExample):
            raise RecordError(f"{where}: an SFT example cannot be an RL problem; give problems.jsonl")
        own = texts.key(record.question)
        marks = {own, texts.key("id", record.id)}
        if isinstance(record, ExamQuestion):
            marks.add(texts.key(closed_problem(record).question))  # the closed form, should it come from another mix
        order = hashlib.blake2b(own, digest_size=16, key=str(seed).encode()).digest()
        yield Candidate(kind, source, number, order, frozenset(marks), isinstance(record, SFTExample))


def _read(row: Mapping[str, Any], where: str, bases: sources.CopBases) -> SFTExample | VerifiableProblem | ExamQuestion:
    """Read a row in the form it has."""
    if any(records.given(row, name) is not None for name in records.COMPLEX_COT):
        return records.sft_from_row(row, where)
    if any(records.given(row, name) is not None for name in records.GROUND_TRUTH):
        return records.problem_from_row(row, where)
    return bases.read(row, where)


def _draw(found: Mapping[str, list[Candidate]], wanted: Mapping[str, int]) -> dict[str, list[Candidate]]:
    """Return what is drawn of each kind.

    "search" and "rl" draw by turns, in the ratio of their counts; but examples, which cost searching, are drawn before
    RL can take their problems.
    """
    taken: set[bytes] = set()
    drawn: dict[str, list[Candidate]] = {kind: [] for kind in KINDS}
    queues = {kind: iter(sorted(found[kind], key=lambda one: (one.order, one.source, one.row))) for kind in KINDS}
    searched = any(one.example for one in found["search"])
    first = [("search",), ("rl",)] if searched else [("search", "rl")]
    for turn in (*first, ("closed",), ("general",)):
        active = [kind for kind in turn if wanted[kind]]
        while active:
            kind = min(active, key=lambda name: (len(drawn[name]) / wanted[name], turn.index(name)))
            full = len(drawn[kind]) >= wanted[kind]
            one = None if full else next((one for one in queues[kind] if not one.marks & taken), None)
            if one is None:
                active.remove(kind)
                continue
            taken |= one.marks
            drawn[kind].append(one)
    return drawn


def _places(drawn: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    """Return what goes in which output, each in drawn order."""
    places: dict[str, list[Candidate]] = {SFT: [], SEARCH: [], RL: []}
    for one in drawn["search"]:
        places[SFT if one.example else SEARCH].append(one)
    places[RL] += drawn["rl"]
    for kind in ("closed", "general"):
        places[SFT] += [one for one in drawn[kind] if one.example]
        for turn, one in enumerate(one for one in drawn[kind] if not one.example):
            places[SEARCH if turn % 2 == 0 else RL].append(one)
    for chosen in places.values():
        chosen.sort(key=lambda one: one.order)
    return places


def _rows(chosen: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Read the chosen rows again and return them in the order they were chosen."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for source in dict.fromkeys(one.source for one in chosen):
        kinds = {one.row: one.kind for one in chosen if one.source == source}
        bases = sources.CopBases(source)
        for number, (where, row) in enumerate(sources.rows(source)):
            if number in kinds:
                record = _read(row, where, bases)
                if isinstance(record, SFTExample):
                    record = replace(record, provenance={**record.provenance, "kind": kinds[number]})
                rows[source, number] = to_row(closed_problem(record) if isinstance(record, ExamQuestion) else record)
    return [rows[one.source, one.row] for one in chosen]


def _by_kind(chosen: Sequence[Candidate]) -> dict[str, int]:
    """Return how many of each kind there are."""
    return {kind: count for kind in KINDS if (count := sum(one.kind == kind for one in chosen))}


def _source_hash(source: str) -> str | None:
    """Return the hash of a source that is a file, None for the Hub's and shipped ones."""
    path = Path(os.path.expanduser(source))
    return digest(path) if path.is_file() else None
