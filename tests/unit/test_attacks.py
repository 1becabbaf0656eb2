"""Replies made up from problems: their kinds, their sources, and that the exact verifier gets every one right."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import lite_huatuo
from lite_huatuo import jsonl
from lite_huatuo.records import VerifiableProblem, problem_from_row
from lite_huatuo.verifier import attacks
from lite_huatuo.verifier.base import Item
from lite_huatuo.verifier.exact import ExactVerifier, normalise

DEMO = Path(lite_huatuo.__file__).parent / "data" / "demo"
PROBLEMS = [
    problem_from_row(row, where)
    for path in sorted(DEMO.glob("problems_*.jsonl"))
    for where, row in jsonl.iter_rows(path)
]


def problem(truth: str, question: str = "What is it?", language: str = "en") -> VerifiableProblem:
    return VerifiableProblem("x", question, truth, language)


def made(item: VerifiableProblem, options=()) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for kind, text in attacks.negatives(item, options, rng=random.Random(0)):
        kinds.setdefault(kind, []).append(text)
    return kinds


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_exact_verifier_is_fooled_by_none_and_accepts_every_form(language: str) -> None:
    wrong, right = [], []
    mine = [one for one in PROBLEMS if one.language == language]
    assert len(mine) >= 20
    for one in mine:
        for kind, text in attacks.negatives(one, rng=random.Random(one.id)):
            if ExactVerifier().verify([Item(one.question, text, one.ground_truth)])[0].correct:
                wrong.append((one.id, kind, text))
        for form, text in attacks.positives(one):
            if not ExactVerifier().verify([Item(one.question, text, one.ground_truth)])[0].correct:
                right.append((one.id, form, text))
    assert (wrong, right) == ([], [])


def test_every_kind_is_made_and_the_same_seed_makes_the_same() -> None:
    one = problem("Right renal artery")
    kinds = made(one)
    assert {
        "empty-opener", "echoed-question", "echoed-truth", "hedged", "negated", "judge-instruction", "wrong-section",
        "switched", "someone-else", "comparison", "refusal", "other-answer", "neighbour", "all-options",
    } <= kinds.keys()  # fmt: skip
    assert made(one) == kinds
    assert {"Left renal artery", "Right renal vein"} <= {name.capitalize() for name in kinds["neighbour"]}


def test_options_are_used_and_those_that_say_the_truth_are_not() -> None:
    options = {"A": "Scabies", "B": "The gout", "C": "Gout", "D": "Lichen planus"}
    kinds = made(problem("Gout"), options)
    assert set(kinds["other-answer"]) == {"Scabies", "The answer is Lichen planus."}
    for row in kinds["all-options"]:
        assert row.casefold().count("gout") == 1


def test_another_name_of_the_truth_is_no_rival() -> None:
    kinds = made(problem("Myocardial infarction"), ["MI", "heart attack", "Pericarditis"])
    assert kinds["other-answer"][0] == "Pericarditis"


def test_braces_and_dollars_in_data_are_literal() -> None:
    one = problem("{other} $x", "Why {name}?")
    assert "{other} $x" in dict(attacks.positives(one))["bare"]
    assert any(text == "Why {name}?" for text in made(one)["echoed-question"])


@pytest.mark.parametrize(("truth", "said"), [("Yes.", "yes"), ("no", "no"), ("是", "yes"), ("Noma", "")])
def test_polarity(truth: str, said: str) -> None:
    assert attacks.polarity(truth) == said


def test_a_yes_or_no_gets_no_names() -> None:
    kinds = made(problem("Yes"))
    assert set(kinds) == {"empty-opener", "echoed-question", "polarity"}
    assert "No." in kinds["polarity"]
    assert ("sentence", "Yes.") in attacks.positives(problem("Yes"))


def test_numbers_get_other_numbers_and_other_units() -> None:
    assert {"5000 mg", "1500 mg"} <= set(made(problem("500 mg"))["partial-number"])
    assert ("unit", "500000 mcg") in attacks.positives(problem("500 mg"))


def test_aliases_come_from_the_parenthesis_and_the_table() -> None:
    assert set(attacks.aliases("Vitamin B1 (thiamine)")) >= {"thiamine"}
    assert "MI" in attacks.aliases("myocardial infarction")
    assert attacks.aliases("MS") == []  # several readings
    assert all(normalise(alias) != normalise("pain") for alias in attacks.aliases("pain (severe)"))
    assert attacks.aliases("pain (severe)") == []
