"""The shipped suite: judged cases in English and Chinese that a verifier must stand up to.

A negative case is a reply that states no right answer but looks as though it might; its `attack` names the trick. A
positive case says the right thing in another form, which `attack` names as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from lite_huatuo.verifier.base import Item

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Case:
    """One judged reply: `label` is True where the final response states the ground truth as its answer."""

    id: str
    question: str
    final_response: str
    ground_truth: str
    label: bool
    attack: str
    language: str

    @property
    def item(self) -> Item:
        """What a verifier is shown of it."""
        return Item(self.question, self.final_response, self.ground_truth)


@cache
def load() -> tuple[Case, ...]:
    """Return every case of the suite, English before Chinese, in the order of the files."""
    folder = resources.files("lite_huatuo.verifier.cases")
    return tuple(
        Case(**json.loads(line), language=language)
        for language in LANGUAGES
        for line in (folder / f"cases_{language}.jsonl").read_text("utf-8").split("\n")
        if line
    )
