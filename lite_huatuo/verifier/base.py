"""The verifier protocol: what is judged, what comes back, and that a failure is never a "wrong"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Item:
    """One thing to judge: the question, the reply's final response (not its thinking) and the ground truth."""

    question: str
    final_response: str
    ground_truth: str


@dataclass(frozen=True)
class Verdict:
    """A judgement. `correct` is None exactly where `failure` tells why the judge gave none.

    `probability` is the judge's P(correct) in [0, 1] where it has one; `raw` is what it said, for the samples file.
    """

    correct: bool | None
    raw: str = ""
    probability: float | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        assert (self.correct is None) == (self.failure is not None), "a verdict is either a judgement or a failure"


@runtime_checkable
class Verifier(Protocol):
    """A judge. `verify` returns one verdict per item, in order; a judge that cannot answer returns a failure.

    `background` is True for one that only waits (for a network): it may run on a thread beside other work.
    """

    name: str
    background: bool

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item."""
        ...
