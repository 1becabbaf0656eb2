"""Several verifiers as one. A member that failed might have said either: the ensemble gives a verdict only where that
would change nothing, else it fails with the members' reasons.

* agree: wrong as soon as one says wrong, right where all say right.
* any: right as soon as one says right, wrong where all say wrong.
* weighted: right where the weighted mean of the members' P(correct) is above the threshold, whatever failed members
  would have added (0 to 1). A member without probabilities counts as 1 or 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from lite_huatuo.verifier.base import Item, Verdict, Verifier
from lite_huatuo.verifier.exact import ExactVerifier

Mode = Literal["agree", "any", "weighted"]


class EnsembleVerifier:
    """Verifiers that judge together; those that work in the background do so while the others judge."""

    def __init__(
        self,
        members: Sequence[Verifier],
        *,
        mode: Mode = "agree",
        weights: Sequence[float] | None = None,
        threshold: float = 0.5,
    ) -> None:
        assert members, "an ensemble has members"
        weights = [1.0] * len(members) if weights is None else weights
        assert len(weights) == len(members), "one weight per member"
        self.members, self.mode, self.threshold = list(members), mode, threshold
        self.weights = [weight / sum(weights) for weight in weights]
        self.name = f"{mode} ({', '.join(member.name for member in members)})"
        # On a thread beside other work only where no member needs a model: who waits for a network, and rules.
        waits = [member.background for member in members]
        self.background = any(waits) and all(
            wait or isinstance(member, ExactVerifier) for wait, member in zip(waits, members, strict=True)
        )

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item by every member."""
        with ThreadPoolExecutor(max_workers=len(self.members)) as threads:
            begun = [threads.submit(member.verify, items) if member.background else None for member in self.members]
            found = [None if task else member.verify(items) for task, member in zip(begun, self.members, strict=True)]
            by_member = [task.result() if task else done or [] for task, done in zip(begun, found, strict=True)]
        return [self._together(verdicts) for verdicts in zip(*by_member, strict=True)]

    def close(self) -> None:
        """Close the members that can be closed."""
        for member in self.members:
            close = getattr(member, "close", None)
            if close is not None:
                close()

    def _together(self, verdicts: Sequence[Verdict]) -> Verdict:
        """Return the ensemble's verdict on one item."""
        said = [verdict.correct for verdict in verdicts]
        raw = "; ".join(
            f"{member.name}: {_word(verdict)}" for member, verdict in zip(self.members, verdicts, strict=True)
        )
        correct, probability = self._weigh(verdicts) if self.mode == "weighted" else self._count(said, verdicts)
        if correct is not None:
            return Verdict(correct, raw, probability)
        reasons = [f"{m.name}: {v.failure}" for m, v in zip(self.members, verdicts, strict=True) if v.failure]
        return Verdict(None, raw, failure="; ".join(reasons))

    def _count(self, said: list[bool | None], verdicts: Sequence[Verdict]) -> tuple[bool | None, float | None]:
        """Return (verdict, probability) of agree or any; the probability is the member's that decided."""
        decides = self.mode == "any"  # what one member alone can bring about
        correct = decides if decides in said else None if None in said else not decides
        own = [_probability(verdict) for verdict in verdicts if verdict.correct is correct]
        if correct is None or all(v.probability is None for v in verdicts):
            return correct, None
        return correct, max(own) if self.mode == "any" else min(own)

    def _weigh(self, verdicts: Sequence[Verdict]) -> tuple[bool | None, float | None]:
        """Return (verdict, mean probability) of weighted; the mean is None where a member failed."""
        pairs = list(zip(self.weights, verdicts, strict=True))
        least = sum(weight * _probability(verdict) for weight, verdict in pairs if verdict.failure is None)
        open_ = sum(weight for weight, verdict in pairs if verdict.failure is not None)
        if least > self.threshold:
            return True, None if open_ else least
        if least + open_ <= self.threshold:
            return False, None if open_ else least
        return None, None


def _probability(verdict: Verdict) -> float:
    """Return P(correct) of a verdict, 1 or 0 where the verifier has none."""
    return float(bool(verdict.correct)) if verdict.probability is None else verdict.probability


def _word(verdict: Verdict) -> str:
    """Return a verdict in a word, with its probability."""
    if verdict.correct is None:
        return "failed"
    shown = "" if verdict.probability is None else f" ({verdict.probability:.2f})"
    return f"{'right' if verdict.correct else 'wrong'}{shown}"
