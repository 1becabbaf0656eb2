"""Ensembles: what they say, and that a failed member never becomes a verdict that it could have turned."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import pytest

from lite_huatuo.verifier.base import Item, Verdict, Verifier
from lite_huatuo.verifier.ensemble import EnsembleVerifier, Mode
from lite_huatuo.verifier.exact import ExactVerifier

ITEM = Item("?", "x", "x")
RIGHT, WRONG, FAILED = Verdict(True), Verdict(False), Verdict(None, failure="no answer")


class Says:
    """Always the same verdict."""

    def __init__(self, verdict: Verdict, *, background: bool = False, name: str = "says") -> None:
        self.verdict, self.background, self.name, self.closed = verdict, background, name, False

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        return [self.verdict] * len(items)

    def close(self) -> None:
        self.closed = True


def together(*verdicts: Verdict, mode: Mode, weights: list[float] | None = None, threshold: float = 0.5) -> Verdict:
    members = [Says(verdict, name=f"m{n}") for n, verdict in enumerate(verdicts)]
    return EnsembleVerifier(members, mode=mode, weights=weights, threshold=threshold).verify([ITEM])[0]


@pytest.mark.parametrize(
    ("verdicts", "agree", "any_"),
    [
        ([RIGHT, RIGHT], True, True),
        ([RIGHT, WRONG], False, True),
        ([WRONG, WRONG], False, False),
        ([RIGHT, FAILED], None, True),
        ([WRONG, FAILED], False, None),
        ([FAILED, FAILED], None, None),
    ],
)
def test_agree_and_any(verdicts: list[Verdict], agree: bool | None, any_: bool | None) -> None:
    for order in itertools.permutations(verdicts):
        assert together(*order, mode="agree").correct is agree
        assert together(*order, mode="any").correct is any_


@pytest.mark.parametrize("mode", ["agree", "any", "weighted"])
def test_a_verdict_with_failures_is_the_one_that_any_answer_of_theirs_would_leave(mode: Mode) -> None:
    weights = [3.0, 2.0, 1.0]
    for verdicts in itertools.product([RIGHT, WRONG, FAILED], repeat=3):
        could_say = [[v] if v.failure is None else [RIGHT, WRONG] for v in verdicts]
        outcomes = {together(*case, mode=mode, weights=weights).correct for case in itertools.product(*could_say)}
        found = together(*verdicts, mode=mode, weights=weights)
        assert found.correct == (outcomes.pop() if len(outcomes) == 1 else None)
        assert (found.failure is None) == (found.correct is not None)


def test_weighted_takes_the_mean_of_the_probabilities() -> None:
    high, low = Verdict(True, probability=0.9), Verdict(False, probability=0.3)
    found = together(high, low, mode="weighted", weights=[1.0, 3.0], threshold=0.4)
    assert found.probability == pytest.approx((0.9 + 3 * 0.3) / 4)
    assert found.correct is True
    assert together(high, low, mode="weighted", weights=[1.0, 3.0], threshold=0.45).correct is False  # not above it
    assert together(high, RIGHT, mode="weighted").probability == pytest.approx(0.95)


def test_failures_and_verdicts_are_told_by_member() -> None:
    found = together(RIGHT, FAILED, mode="agree")
    assert found.failure == "m1: no answer"
    assert found.raw == "m0: right; m1: failed"


def test_probability_is_that_of_the_member_that_decided() -> None:
    high, low = Verdict(True, probability=0.9), Verdict(False, probability=0.3)
    assert together(high, low, mode="agree").probability == 0.3
    assert together(high, low, mode="any").probability == 0.9
    assert together(RIGHT, WRONG, mode="agree").probability is None


def test_it_is_in_the_background_only_where_no_member_needs_a_model() -> None:
    waits, computes = Says(RIGHT, background=True), Says(RIGHT)
    assert EnsembleVerifier([waits, ExactVerifier()]).background is True
    assert EnsembleVerifier([waits, computes]).background is False
    assert EnsembleVerifier([ExactVerifier(), ExactVerifier()]).background is False
    assert isinstance(EnsembleVerifier([waits]), Verifier)


def test_a_member_that_waits_does_so_while_the_others_judge() -> None:
    judged = threading.Event()

    class Waits(Says):
        def verify(self, items: Sequence[Item]) -> list[Verdict]:
            assert judged.wait(20), "the other member was not asked meanwhile"
            return super().verify(items)

    class Computes(Says):
        def verify(self, items: Sequence[Item]) -> list[Verdict]:
            assert threading.current_thread() is threading.main_thread()
            judged.set()
            return super().verify(items)

    ensemble = EnsembleVerifier([Waits(RIGHT, background=True), Computes(WRONG)], mode="any")
    assert [verdict.correct for verdict in ensemble.verify([ITEM] * 3)] == [True] * 3


def test_a_members_exception_is_not_swallowed() -> None:
    class Broken(Says):
        def verify(self, items: Sequence[Item]) -> list[Verdict]:
            raise RuntimeError("broken")

    for background in (False, True):
        with pytest.raises(RuntimeError, match="broken"):
            EnsembleVerifier([Says(RIGHT), Broken(RIGHT, background=background)]).verify([ITEM])


def test_closing_closes_the_members() -> None:
    member = Says(RIGHT)
    EnsembleVerifier([member, ExactVerifier()]).close()
    assert member.closed
