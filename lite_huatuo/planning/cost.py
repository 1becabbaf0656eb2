"""What a job of the data pipeline will cost, before a cent is spent: the job itself is run on a sample of the records
with a stand-in that counts what it is asked and replies with text of a typical length.

Prompts are the real ones; how long replies are and how often they are right is assumed, and printed with the estimate.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from lite_huatuo.data.asking import Request
from lite_huatuo.data.profile import Profile, Usage
from lite_huatuo.errors import ReplyError
from lite_huatuo.records import detect_language

Record = TypeVar("Record")

# Tokens of a typical reply by step, hidden reasoning apart. The paper's complex CoT has 712 on average.
REPLY_TOKENS = {
    "filter.solve": 10,
    "filter.judge": 80,
    "reformat.write": 150,
    "reformat.check": 80,
    "search.verify": 10,
    "rewrite.thinking": 712,
    "rewrite.response": 350,
}
THOUGHT_TOKENS = 600  # a first chain, and each strategy
# How often a reply says so, by key of its JSON; a conclusion is right as often as `Assumed.right` says.
REASONING = 0.25  # share of the profile's allowance (reasoning_tokens) that a call uses
SHARES = {"deep": 0.5, "unique": 0.9, "reformable": 0.8, "complete": 0.95, "same": 0.95}
RIGHT, WRONG = "Rhodium", "Osmium"  # what the stand-in concludes, so that its verdicts know


@dataclass(frozen=True)
class Assumed:
    """Shares that nobody knows beforehand. `right`: of conclusions; `solved`: of a small model's answers."""

    right: float = 0.5
    solved: float = 0.7


@dataclass
class Line:
    """What one step asks of one model."""

    calls: float = 0
    input: float = 0
    output: float = 0

    def dollars(self, profile: Profile, *, batch: bool = False) -> float:
        """Return the price."""
        return profile.prices.dollars(Usage(input=round(self.input), output=round(self.output)), batch=batch)


@dataclass
class Rehearsal:
    """A stand-in for one model; `ask` is an `Ask` that costs nothing. `lines` is what it was asked, by step; `answer`
    the right letters of the exam question that it is asked about now."""

    profile: Profile
    assumed: Assumed = field(default_factory=Assumed)
    lines: dict[str, Line] = field(default_factory=lambda: defaultdict(Line))
    answer: str = ""

    async def ask(self, request: Request) -> str:
        """Count the request and return a reply of typical length."""
        tokens = REPLY_TOKENS.get(request.step, THOUGHT_TOKENS)
        line = self.lines[request.step]
        line.calls += 1
        line.input += count_tokens(request.prompt) + (count_tokens(str(request.schema)) if request.schema else 0)
        line.output += tokens + REASONING * self.profile.reasoning_tokens
        return self.reply(request, tokens)

    async def unpaid(self, request: Request) -> str:
        """Return a reply without counting: for a verifier that needs no model."""
        return self.reply(request, REPLY_TOKENS.get(request.step, THOUGHT_TOKENS))

    def reply(self, request: Request, tokens: int) -> str:
        """Return text, or JSON of the request's schema, drawn by the request's content."""
        language = detect_language(request.prompt.partition("<question>")[2])
        if request.schema is None:
            return f"{_filler(tokens - 5, language)} {RIGHT}."
        made = {key: self._value(key, request, tokens, language) for key in request.schema["properties"]}
        return json.dumps(made, ensure_ascii=False)

    def _value(self, key: str, request: Request, tokens: int, language: str) -> Any:
        kind = request.schema["properties"][key]["type"] if request.schema else "string"
        if key == "correct":
            return RIGHT in request.prompt.partition("<answer>")[2]
        if kind == "boolean":
            return _share(request, key) < SHARES[key]
        if key == "steps":
            step = {"action": "think", "title": "a step", "content": _filler(tokens // 5, language)}
            return [dict(step) for _ in range(5)]
        if key == "answer":
            other = "A" if self.answer != "A" else "B"
            return self.answer if _share(request, key) < self.assumed.solved else other
        if key == "conclusion":
            return RIGHT if _share(request, key) < self.assumed.right else WRONG
        return RIGHT if key == "ground_truth" else _filler(tokens - 10, language)


async def rehearse(
    records: Sequence[Record], work: Callable[[Record], Awaitable[Any]], models: Sequence[Rehearsal]
) -> int:
    """Do the work for every record and return how many failed, which the stand-ins' replies should not cause."""
    failed = 0
    for record in records:
        for model in models:
            model.answer = getattr(getattr(record, "exam", record), "answer_idx", "")
        try:
            await work(record)
        except ReplyError:
            failed += 1
    return failed


def spread(records: Callable[[], Iterable[Record]], count: int) -> tuple[list[Record], int]:
    """Return (`count` records spread evenly over all, how many there are); reads them twice, one at a time."""
    total = sum(1 for _ in records())
    wanted = {number * total // count for number in range(count)} if total > count else range(total)
    return [record for number, record in enumerate(records()) if number in wanted], total


def scaled(lines: dict[str, Line], factor: float) -> dict[str, Line]:
    """Return the lines for `factor` times as many records."""
    return {
        step: replace(line, calls=line.calls * factor, input=line.input * factor, output=line.output * factor)
        for step, line in lines.items()
    }


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has: a quarter of its characters, two thirds of the Chinese ones."""
    han = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return round(han * 2 / 3 + (len(text) - han) / 4) + 1


def _filler(tokens: int, language: str) -> str:
    """Return text of about so many tokens that says nothing."""
    if language == "zh":
        return "此处为占位" * max(1, tokens * 3 // 10)
    return " ".join(["filler"] * max(1, tokens))


def _share(request: Request, key: str) -> float:
    """Return a number in [0, 1) drawn by the request's content."""
    digest = hashlib.sha256(f"{request.step}\0{request.sample}\0{key}\0{request.prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
