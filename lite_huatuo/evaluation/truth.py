"""How far a reading rule can be trusted: what it reads from replies whose stated letters a person has written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lite_huatuo.evaluation import answers
from lite_huatuo.verifier.metrics import Share, wilson


def precision(rows: Sequence[Mapping[str, Any]], rule: str) -> Share:
    """Return the share of the rule's readings that are what the reply states. A row has `reply`, `options`, and
    `stated`: the letters, "" for none."""
    found = [(answers.read(rule, row["reply"], row["options"]), row["stated"]) for row in rows]
    return wilson(sum(reading == stated for reading, stated in found if reading), sum(bool(r) for r, _ in found))


def recall(rows: Sequence[Mapping[str, Any]], rule: str) -> Share:
    """Return the share of the replies that state letters from which the rule reads those."""
    stating = [row for row in rows if row["stated"]]
    return wilson(sum(answers.read(rule, r["reply"], r["options"]) == r["stated"] for r in stating), len(stating))


def coverage(rows: Sequence[Mapping[str, Any]], rule: str) -> Share:
    """Return the share of all replies from which the rule reads something."""
    return wilson(sum(answers.read(rule, r["reply"], r["options"]) is not None for r in rows), len(rows))
