"""What is said about verifiers in numbers: counts, shares with their intervals, agreement, calibration. Pure functions.

"Positive" is "judged right". Failures are no verdicts: they stand in their own count and in no share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Z = 1.959963984540054  # two-sided 95 %
LEAST, MOST = 0.05, 20.0  # bounds of a temperature: perfectly separable verdicts would ask for 0
EDGE = 1e-6  # probabilities are kept this far from 0 and 1, so that logits are finite


@dataclass(frozen=True)
class Share:
    """`hits` of `n` with its 95 % Wilson interval; `value` is None where n is 0."""

    value: float | None
    low: float
    high: float
    hits: int
    n: int


def wilson(hits: int, n: int) -> Share:
    """Return a share with its Wilson interval, which stays inside [0, 1] and is honest for small n; n = 0: [0, 1]."""
    if n == 0:
        return Share(None, 0.0, 1.0, 0, 0)
    share = hits / n
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    middle, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    return Share(share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale), hits, n)


@dataclass(frozen=True)
class Counts:
    """Verdicts against labels. `failed` verdicts are in none of the others."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    failed: int

    @property
    def judged(self) -> int:
        """Verdicts that are judgements."""
        return self.true_positives + self.false_positives + self.true_negatives + self.false_negatives

    @property
    def accuracy(self) -> Share:
        """Share of judgements that agree with the label."""
        return wilson(self.true_positives + self.true_negatives, self.judged)

    @property
    def precision(self) -> Share:
        """Share of those judged right that are right."""
        return wilson(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> Share:
        """Share of the right ones that were judged right."""
        return wilson(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> Share:
        """Share of the wrong ones that were judged right."""
        return wilson(self.false_positives, self.false_positives + self.true_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where nothing is or was judged right."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else None

    def report(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        shares = ("accuracy", "precision", "recall", "false_positive_rate")
        return {
            "n": self.judged + self.failed,
            "failed": self.failed,
            **{name: asdict(getattr(self, name)) for name in shares},
            "f1": self.f1,
        }


def confusion(labels: Sequence[bool], said: Sequence[bool | None]) -> Counts:
    """Count verdicts (None: a failure) against labels of the same order."""
    pairs = list(zip(labels, said, strict=True))
    return Counts(
        true_positives=sum(label and verdict is True for label, verdict in pairs),
        false_positives=sum(not label and verdict is True for label, verdict in pairs),
        true_negatives=sum(not label and verdict is False for label, verdict in pairs),
        false_negatives=sum(label and verdict is False for label, verdict in pairs),
        failed=sum(verdict is None for _, verdict in pairs),
    )


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Return Cohen's kappa of two judges; None where chance alone must agree (both always say the same one thing)."""
    n = len(first)
    if n == 0:
        return None
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    p, q = sum(first) / n, sum(second) / n
    chance = p * q + (1 - p) * (1 - q)
    return None if chance == 1.0 else (agreed - chance) / (1 - chance)


def calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 15) -> float | None:
    """Return the expected calibration error of P(correct): over equal-width bins, the mean distance between the mean
    probability and the share that is right, weighted by the bins' sizes. None for no probabilities."""
    if not probabilities:
        return None
    groups: dict[int, list[tuple[float, bool]]] = {}
    for probability, label in zip(probabilities, labels, strict=True):
        groups.setdefault(min(bins - 1, int(probability * bins)), []).append((probability, label))
    gaps = (abs(sum(p for p, _ in group) - sum(label for _, label in group)) for group in groups.values())
    return sum(gaps) / len(probabilities)


def fit_temperature(probabilities: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the temperature T in [0.05, 20] whose `tempered` probabilities have the least log loss; 1.0 for no data.

    The log loss is convex in 1/T, so that a golden-section search over log T finds its minimum.
    """
    logits = [logit(probability) for probability in probabilities]
    if not logits:
        return 1.0

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return sum(_softplus(-x * scale if label else x * scale) for x, label in zip(logits, labels, strict=True))

    low, high, ratio = math.log(LEAST), math.log(MOST), (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-6:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def tempered(probability: float, temperature: float) -> float:
    """Return the probability whose logit is divided by the temperature; 0.5 stays 0.5, so no verdict at 0.5 changes."""
    return 1 / (1 + math.exp(-logit(probability) / temperature))


def logit(probability: float) -> float:
    """Return log(p / (1 - p)), with p kept off 0 and 1."""
    kept = min(1 - EDGE, max(EDGE, probability))
    return math.log(kept / (1 - kept))


def _softplus(x: float) -> float:
    """Return log(1 + e^x) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
