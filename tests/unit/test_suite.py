"""The shipped suite of judged cases: large, varied, sound, and what the exact verifier makes of it."""

from __future__ import annotations

from collections import Counter

from lite_huatuo.records import detect_language
from lite_huatuo.verifier import suite
from lite_huatuo.verifier.exact import ExactVerifier

CASES = suite.load()


def test_it_is_large_and_varied() -> None:
    wrong = Counter(case.attack for case in CASES if not case.label)
    assert wrong.total() >= 160
    assert len(wrong) >= 15
    assert min(wrong.values()) >= 4
    assert sum(case.label for case in CASES) >= 80
    for language in suite.LANGUAGES:
        mine = [case for case in CASES if case.language == language]
        assert sum(not case.label for case in mine) >= 80
        assert sum(case.label for case in mine) >= 30


def test_every_case_is_whole_and_stands_once() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert len({(case.question, case.final_response) for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.question.strip(), case.id
        assert case.final_response.strip(), case.id
        assert case.ground_truth.strip(), case.id
        assert case.id.startswith(f"{case.language}-{case.attack}-"), case.id
        assert detect_language(case.question) == case.language, case.id


def test_an_item_shows_no_label() -> None:
    case = CASES[0]
    assert case.item == (type(case.item))(case.question, case.final_response, case.ground_truth)


def test_the_exact_verifier_is_fooled_by_no_case() -> None:
    verdicts = ExactVerifier().verify([case.item for case in CASES])
    fooled = [case.id for case, verdict in zip(CASES, verdicts, strict=True) if verdict.correct and not case.label]
    assert fooled == []


def test_the_exact_verifier_accepts_most_of_the_right_cases() -> None:
    right = [case for case in CASES if case.label]
    accepted = [case for case in right if ExactVerifier().verify([case.item])[0].correct]
    assert len(accepted) / len(right) >= 0.9
