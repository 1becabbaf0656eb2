"""The score of a reply: 1.0 right, 0.1 wrong, 0.0 without the form, and none where the verifier failed."""

from __future__ import annotations

import pytest

from lite_huatuo.training import reward
from lite_huatuo.verifier.base import Verdict


@pytest.mark.parametrize(
    ("well_formed", "verdict", "expected"),
    [
        (True, Verdict(True), 1.0),
        (True, Verdict(False), 0.1),
        (False, None, 0.0),
        (False, Verdict(True), 0.0),  # a right answer without thinking earns nothing
        (False, Verdict(False), 0.0),
        (True, Verdict(None, failure="timeout"), None),  # never "wrong": the episode is dropped
        (False, Verdict(None, failure="timeout"), 0.0),  # no verdict was needed
        (True, Verdict(True, probability=0.01), 1.0),  # the judgement counts; the probability is for the samples
        (True, Verdict(False, raw="True"), 0.1),
    ],
)
def test_the_score_of_a_reply(well_formed: bool, verdict: Verdict | None, expected: float | None) -> None:
    assert reward.score(well_formed, verdict) == expected


def test_the_three_scores_are_the_papers_and_ordered() -> None:
    assert (reward.RIGHT, reward.WRONG, reward.NO_FORM) == (1.0, 0.1, 0.0)


def test_a_well_formed_reply_needs_a_verdict() -> None:
    with pytest.raises(AssertionError):
        reward.score(True, None)


@pytest.mark.parametrize(("correct", "failure"), [(None, None), (True, "timeout"), (False, "timeout")])
def test_a_verdict_is_either_a_judgement_or_a_failure(correct: bool | None, failure: str | None) -> None:
    with pytest.raises(AssertionError):
        Verdict(correct, failure=failure)
