"""Judged pairs to train and test a verifier: replies that a judge has judged, replies made to fool a judge, and right
answers in other words; as many right as wrong, split by problem.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, thinking_marks
from lite_huatuo.data import side_files, texts
from lite_huatuo.errors import RecordError
from lite_huatuo.manifest import digest
from lite_huatuo.records import VerifiableProblem, to_row
from lite_huatuo.response_format import RESPONSE_HEADING, parse
from lite_huatuo.verifier import attacks
from lite_huatuo.verifier.base import Item, Verifier

REPLY, ATTACK, FORM = "reply", "attack", "form"  # where a pair is from
SPLITS = ("train", "test")
MANIFEST = "manifest.json"
FILES = (*(f"{name}.jsonl" for name in SPLITS), MANIFEST)


@dataclass(frozen=True)
class Reply:
    """A final response to a problem, not judged yet; `temperature` where it is known."""

    problem: VerifiableProblem
    final_response: str
    temperature: float | None = None


@dataclass(frozen=True)
class Pair:
    """A judged final response. `attack` is the kind of trick, or the form of a right answer."""

    id: str
    problem: str
    question: str
    final_response: str
    ground_truth: str
    label: bool
    origin: str
    attack: str
    language: str
    temperature: float | None = None


@dataclass(frozen=True)
class Built:
    """The pairs by split, and the manifest that tells how they came about."""

    pairs: dict[str, list[Pair]]
    manifest: dict[str, Any]


def read_replies(
    paths: Iterable[Path], problems: Mapping[str, VerifiableProblem], skipped: Counter[str]
) -> list[Reply]:
    """Read lines with id (a problem's) and reply, a student's with both headings or plain text; temperature if known.

    Lines that cannot be judged are counted in `skipped` by reason: an unknown problem, a damaged form, empty.
    """
    replies = []
    for path in paths:
        for where, row in jsonl.iter_rows(path):
            if not isinstance(row.get("reply"), str) or "id" not in row:
                raise RecordError(f"{where}: expected id and reply (text)")
            problem = problems.get(str(row["id"]))
            response = final_response(row["reply"])
            reason = "no such problem" if problem is None else "no final response" if not response else None
            if reason or problem is None or response is None:
                skipped[str(reason)] += 1
                continue
            temperature = row.get("temperature")
            replies.append(Reply(problem, response, float(temperature) if temperature is not None else None))
    return replies


def final_response(reply: str) -> str | None:
    """Return the final response of a reply in the student's form, or a plain reply as it is, without thinking in marks
    of any kind; None: there is none."""
    sections = parse(reply)
    if RESPONSE_HEADING in reply and sections is None:
        return None
    return thinking_marks.split(sections.final_response if sections else reply).answer or None


def build(
    problems: Sequence[VerifiableProblem],
    replies: Sequence[Reply],
    judge: Verifier,
    *,
    options: Mapping[str, Mapping[str, str]] | None = None,
    attacks_per_problem: int = 4,
    test_share: float = 0.1,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Built:
    """Judge the replies, add made-up ones, balance each split, and tell everything in the manifest.

    `options` are those of the exam question that a problem comes from, by its id: the wrong ones are used in attacks.
    Of several equal final responses to a problem one is kept, a reply before a made-up one. All pairs of one question
    are in the same split. The same arguments and verdicts give the same pairs in the same order.
    """
    unique = _unique(replies)
    verdicts = []
    for start in range(0, len(unique), 256):
        chunk = unique[start : start + 256]
        verdicts += judge.verify([_item(reply) for reply in chunk])
        advance(len(chunk))
    pairs, failures = [], Counter[str]()
    for reply, verdict in zip(unique, verdicts, strict=True):
        if verdict.correct is None:
            failures[str(verdict.failure)] += 1
        else:
            pairs.append(_pair(reply.problem, reply.final_response, verdict.correct, REPLY, "", reply.temperature))
    seen = {_key(reply.problem, reply.final_response) for reply in unique}
    for problem in problems:
        wrong = (options or {}).get(problem.id, {})
        pairs += _made_up(problem, wrong, attacks_per_problem, seed, seen)
    splits: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    for pair in pairs:
        splits["test" if _draw(seed, "split", texts.key(pair.question).hex()) < test_share else "train"].append(pair)
    kept = {name: _balanced(found, name, seed) for name, found in splits.items()}
    manifest = {
        "judge": judge.name,
        "seed": seed,
        "test_share": test_share,
        "attacks_per_problem": attacks_per_problem,
        "problems": len(problems),
        "replies": {"given": len(replies), "equal": len(replies) - len(unique), "not judged": sum(failures.values())},
        "failures": dict(failures.most_common(10)),
        "splits": {
            name: {**_counts(kept[name]), "left_out_to_balance": len(splits[name]) - len(kept[name])} for name in SPLITS
        },
    }
    return Built(kept, manifest)


def write(folder: Path, built: Built, **told: Any) -> dict[str, Any]:
    """Write train.jsonl, test.jsonl and, last, manifest.json with the files' hashes and what else is told.

    Killed in between, old pairs and new ones have no manifest.
    """
    import json

    folder.mkdir(parents=True, exist_ok=True)
    manifest = {**built.manifest, **told, "files": {}}
    for name, pairs in built.pairs.items():
        path = side_files.new(folder / f"{name}.jsonl")
        jsonl.write(path, [to_row(pair) for pair in pairs])
        manifest["files"][f"{name}.jsonl"] = digest(path)
    jsonl.write_text(side_files.new(folder / MANIFEST), json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    side_files.place(folder, FILES)
    return manifest


def _made_up(
    problem: VerifiableProblem, options: Mapping[str, str], count: int, seed: int, seen: set[str]
) -> list[Pair]:
    """Return the made-up pairs of a problem: every form of its right answer, and `count` attacks of different kinds."""
    rng = random.Random(f"{seed}/{problem.id}")
    found = [(text, True, FORM, form) for form, text in attacks.positives(problem)]
    tricks = attacks.negatives(problem, options, rng=rng)
    rng.shuffle(tricks)
    kinds: dict[str, str] = {}
    for kind, text in tricks:
        kinds.setdefault(kind, text)
    found += [(text, False, ATTACK, kind) for kind, text in list(kinds.items())[:count]]
    pairs = []
    for text, label, origin, kind in found:
        key = _key(problem, text)
        if key not in seen:
            seen.add(key)
            pairs.append(_pair(problem, text, label, origin, kind, None))
    return pairs


def _balanced(pairs: list[Pair], split: str, seed: int) -> list[Pair]:
    """Return as many right pairs as wrong ones, in a drawn order. What is left out is drawn by the seed, made-up pairs
    before replies: replies show what a student writes."""
    right, wrong = ([pair for pair in pairs if pair.label is label] for label in (True, False))
    size = min(len(right), len(wrong))
    if size == 0 and split == "train":
        raise RecordError(
            f"of {len(pairs)} pairs all are {'right' if right else 'wrong'}: nothing can be learnt from them; "
            "give more problems, or replies of other temperatures or models"
        )

    def place(pair: Pair) -> tuple[bool, float]:
        return pair.origin != REPLY, _draw(seed, "balance", pair.id)

    kept = [pair for group in (right, wrong) for pair in sorted(group, key=place)[:size]]
    return sorted(kept, key=lambda pair: _draw(seed, "order", pair.id))


def _counts(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return how many pairs there are of each kind."""
    by = {name: Counter(str(getattr(pair, name)) for pair in pairs) for name in ("origin", "language", "temperature")}
    return {
        "pairs": len(pairs),
        "right": sum(pair.label for pair in pairs),
        "problems": len({pair.problem for pair in pairs}),
        **{name: dict(sorted(counts.items())) for name, counts in by.items()},
        "attack": dict(sorted(Counter(pair.attack for pair in pairs if pair.attack).items())),
    }


def _unique(replies: Iterable[Reply]) -> list[Reply]:
    """Return the replies without those that say the same in the same words."""
    found: dict[str, Reply] = {}
    for reply in replies:
        found.setdefault(_key(reply.problem, reply.final_response), reply)
    return list(found.values())


def _pair(
    problem: VerifiableProblem, text: str, label: bool, origin: str, attack: str, temperature: float | None
) -> Pair:
    return Pair(
        f"{problem.id}/{origin}/{_key(problem, text)[:12]}", problem.id, problem.question, text, problem.ground_truth,
        label, origin, attack, problem.language, temperature,
    )  # fmt: skip


def _key(problem: VerifiableProblem, text: str) -> str:
    """Return what is equal for equal final responses to a problem: signs count, case and spaces do not."""
    return hashlib.sha256(f"{problem.id}\0{texts.normalise(text)}".encode()).hexdigest()


def _item(reply: Reply) -> Item:
    return Item(reply.problem.question, reply.final_response, reply.problem.ground_truth)


def _draw(seed: int, what: str, content: str) -> float:
    """Return a number in [0, 1) that depends on its arguments only."""
    digest = hashlib.sha256(f"{seed}\0{what}\0{content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
