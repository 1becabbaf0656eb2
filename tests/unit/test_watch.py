"""The signs of a policy that goes astray, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lite_huatuo.records import VerifiableProblem
from lite_huatuo.response_format import render
from lite_huatuo.training import watch
from lite_huatuo.training.rollout import Episode
from lite_huatuo.training.watch import WatchState
from lite_huatuo.verifier.base import Item, Verdict


class Says:
    """A verifier that says what a test wants: True, False, or None for a failure."""

    name, background = "says", False

    def __init__(self, *verdicts: bool | None) -> None:
        self.verdicts, self.asked = list(verdicts), 0

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        self.asked += len(items)
        given = [self.verdicts.pop(0) for _ in items]
        return [Verdict(v, failure="no answer" if v is None else None) for v in given]


def episode(final: str = "It is rest.", correct: bool | None = True, reply: Sequence[int] = (5, 6, 7, 1)) -> Episode:
    made = Episode(
        VerifiableProblem("p", "q", "rest"), [2], list(reply), True, render("Hm.", final) if final else "Hm."
    )
    made.well_formed = bool(final)
    if final:
        made.verdict = Verdict(correct, failure="down" if correct is None else None)
    made.score = None if correct is None and final else 1.0 if correct and final else 0.0
    return made


def row(**changes: float) -> dict[str, float]:
    names = {"reply/length_mean": 10.0, "score/form_share": 1.0, "reference/kl_per_token": 0.0, "policy/entropy": 1.0}
    return {**names, **{name.replace("__", "/"): value for name, value in changes.items()}}


def test_the_gap_is_the_share_only_the_first_verifier_calls_right() -> None:
    episodes = [episode(), episode(), episode(correct=False), episode(final="")]
    found = watch.second_opinion(episodes, Says(True, False, False), 10)
    assert found == {"watch/gap": 0.25, "watch/second_right_share": 0.25}


def test_what_the_second_verifier_cannot_judge_is_left_out() -> None:
    assert watch.second_opinion([episode(), episode()], Says(None, True), 10)["watch/gap"] == 0.0
    assert watch.second_opinion([episode()], Says(None), 10) == {}


def test_episodes_that_the_first_verifier_could_not_judge_are_not_shown() -> None:
    second = Says(True)
    watch.second_opinion([episode(correct=None), episode()], second, 10)
    assert second.asked == 1


def test_a_sample_is_spread_over_all_episodes() -> None:
    second = Says(True, True, True)
    watch.second_opinion([episode() for _ in range(30)], second, 3)
    assert second.asked == 3


@pytest.mark.parametrize(
    ("tokens", "share"), [([1, 2, 3, 4, 5], 0.0), ([1, 2, 3, 4] * 4, 9 / 13), ([7] * 20, 16 / 17), ([1, 2], 0.0)]
)
def test_repetition_by_hand(tokens: list[int], share: float) -> None:
    assert watch.repetition(tokens) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("rest, water, salt, light", True),
        ("- rest\n- water\n- salt", True),
        ("rest or water or salt", True),
        ("维生素A、维生素C、维生素D", True),
        ("It is rest.", False),
        ("rest or water", False),
        ("He lacks vitamin C. Without it collagen is weak, so the gums bleed, and small vessels break.", False),
        ("", False),
    ],
)
def test_lists_of_answers_are_told_from_answers(text: str, listed: bool) -> None:
    assert watch.lists_answers(text) is listed


def test_length_is_compared_with_the_first_updates() -> None:
    state = WatchState()
    for _ in range(watch.BASELINE):
        assert watch.signs([episode()], row(), state)["watch/length_ratio"] == 1.0
    assert watch.signs([episode()], row(reply__length_mean=30.0), state)["watch/length_ratio"] == 3.0
    assert watch.signs([episode()], row(reply__length_mean=5.0), state)["watch/length_ratio"] == 2.0


def test_a_sign_warns_at_once_and_counts_updates_in_a_row() -> None:
    state, limits = WatchState(), {"no_form_share": 0.5, "kl_per_token": None}
    bad = {**row(reference__kl_per_token=9.0), "watch/no_form_share": 0.8}
    good = {**row(), "watch/no_form_share": 0.1}
    streaks = []
    for values in (good, bad, bad, good, bad):
        streaks.append([warned.streak for warned in watch.check(values, limits, state)])
    assert streaks == [[], [1], [2], [], [1]]


def test_too_little_entropy_warns_and_the_text_says_so() -> None:
    (warned,) = watch.check(row(policy__entropy=0.01), {"entropy": 0.05}, WatchState())
    assert warned.text == "the policy has lost its variety: entropy 0.01, less than the limit 0.05"
