"""Acceptance: what is reported of a verifier is what it said, failures are in no share, and the bar holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import profile as profiles
from lite_huatuo.errors import RecordError
from lite_huatuo.verifier import acceptance, suite
from lite_huatuo.verifier.api import ApiVerifier
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.ensemble import EnsembleVerifier
from lite_huatuo.verifier.exact import ExactVerifier
from lite_huatuo.verifier.suite import Case
from tests import scripted_teacher
from tests.scripted_server import ScriptedServer


class Rule:
    """Judges by a function of the final response."""

    background = False

    def __init__(self, say: Callable[[str], Verdict]) -> None:
        self.say, self.name, self.sizes = say, "rule", []

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        self.sizes.append(len(items))
        return [self.say(item.final_response) for item in items]


def case(response: str, label: bool, attack: str = "", language: str = "en") -> Case:
    return Case(response, "Which?", response, "salt", label, attack, language)


CASES = [
    case("salt 1", True, "plain"),
    case("salt 2", True, "alias", "zh"),
    case("salt not", False, "negated"),
    case("salt or water", False, "hedged"),
    case("water", False, "negated", "zh"),
    case("lost", True, "plain"),
    case("lost too " + "x" * 500, False, "hedged"),
]


def contains(response: str) -> Verdict:
    if "lost" in response:
        return Verdict(None, failure="no answer")
    return Verdict("salt" in response, probability=0.9 if "salt" in response else 0.2)


def test_the_report_is_what_the_verifier_said() -> None:
    found = acceptance.report(acceptance.judge(Rule(contains), CASES))
    assert (found["n"], found["failed"], found["failures"]) == (7, 2, {"no answer": 2})
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (3, 5)
    assert found["false_positives_by_attack"].keys() == {"hedged", "negated"}
    assert next(iter(found["false_positives_by_attack"])) == "hedged", "the worst comes first"
    negated = found["false_positives_by_attack"]["negated"]
    assert (negated["hits"], negated["n"]) == (1, 2)
    assert found["false_positives_by_attack"]["hedged"]["n"] == 1, "a failure is no verdict"
    assert found["recall_by_form"]["alias"]["value"] == 1.0
    assert found["by_language"]["zh"]["accuracy"]["hits"] == 2
    assert found["by_length"]["over 400"]["failed"] == 1
    assert found["by_length"]["up to 80"]["n"] == 6
    assert found["calibration_error"] == pytest.approx((4 * abs(0.9 - 0.5) + 0.2) / 5)
    assert found["dollars_per_1000"] == 0.0


def test_lengths_count_a_han_character_for_three() -> None:
    found = acceptance.report(acceptance.judge(Rule(contains), [case("盐" * 27, True), case("x" * 80, True)]))
    assert [(name, part["n"]) for name, part in found["by_length"].items()] == [("up to 80", 1), ("81 to 400", 1)]


def test_cases_are_judged_in_chunks_and_progress_is_told() -> None:
    rule, told = Rule(contains), []
    judged = acceptance.judge(rule, [case(f"salt {n}", True) for n in range(150)], advance=told.append)
    assert len(judged.verdicts) == 150
    assert rule.sizes == told == [64, 64, 22]


def test_the_bar() -> None:
    found = acceptance.report(acceptance.judge(Rule(contains), CASES))
    told = acceptance.refusal(found, accept_at=0.9, least_judged_share=0.7)
    assert told is not None
    assert "accuracy is 0.600" in told
    assert "accept_at is 0.9" in told
    assert acceptance.refusal(found, accept_at=0.6, least_judged_share=0.7) is None
    told = acceptance.refusal(found, accept_at=0.0, least_judged_share=0.8)
    assert told is not None
    assert "judged 5 of 7" in told
    assert "no answer" in told


def test_agreement_is_over_what_both_judged() -> None:
    one = acceptance.judge(Rule(contains), CASES)
    other = acceptance.judge(Rule(lambda response: Verdict("salt" in response and "not" not in response)), CASES)
    found = acceptance.agreement(one, other)
    assert (found["agreement"]["hits"], found["agreement"]["n"]) == (4, 5)
    assert (found["only_first_right"], found["only_second_right"]) == (1, 0)
    assert found["kappa"] == pytest.approx((0.8 - 0.56) / (1 - 0.56))


def test_judged_files_are_read_in_both_forms_and_bad_rows_are_told(tmp_path: Path) -> None:
    rows = [
        {"question": "Q?", "final_response": "", "ground_truth": "a", "label": False, "attack": "empty"},
        {"id": "x", "question": "是什么病？", "response": "肝炎", "reference": "肝炎", "label": True},
    ]
    jsonl.write(tmp_path / "judged.jsonl", rows)
    first, second = acceptance.read_judged(tmp_path / "judged.jsonl")
    assert (first.final_response, first.attack, first.language) == ("", "empty", "en")
    assert (second.id, second.final_response, second.ground_truth, second.language) == ("x", "肝炎", "肝炎", "zh")
    for damage, words in (
        ({"label": 1}, "label must be true or false, not 1"),
        ({"label": None}, "label must be"),
        ({"final_response": 3}, "missing final_response"),
        ({"ground_truth": None}, "missing ground_truth"),
    ):
        jsonl.write(tmp_path / "bad.jsonl", [rows[0], {**rows[0], **damage}])
        with pytest.raises(RecordError, match=f"bad.jsonl:2: {words}"):
            acceptance.read_judged(tmp_path / "bad.jsonl")
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(RecordError, match="holds no judged rows"):
        acceptance.read_judged(tmp_path / "none.jsonl")


def test_the_suite_is_judged_whole() -> None:
    cases = suite.load()
    found = acceptance.report(acceptance.judge(ExactVerifier(), cases))
    assert found["n"] == len(cases) >= 240
    assert set(found["false_positives_by_attack"]) == {case.attack for case in cases if not case.label}
    assert set(found["by_language"]) == {"en", "zh"}
    everything = acceptance.report(acceptance.judge(Rule(lambda response: Verdict(True)), cases))
    assert {share["value"] for share in everything["false_positives_by_attack"].values()} == {1.0}


def test_dollars_are_those_of_the_verdicts_that_were_paid_for(tmp_path: Path) -> None:
    with ScriptedServer(scripted_teacher.reply) as server:
        chosen = profiles.load("local", (f"base_url={server.url}", "prices={input: 10.0, output: 10.0}"))

        def judge(cases: list[Case]) -> dict:
            one = ApiVerifier(chosen, tmp_path / "s.sqlite")
            two = ApiVerifier(chosen, tmp_path / "s.sqlite", form="word")
            both = EnsembleVerifier([one, two, ExactVerifier()])
            try:
                return acceptance.report(acceptance.judge(both, cases))
            finally:
                both.close()

        first = judge(CASES[:2])
        assert first["asked"] == 2
        assert first["dollars_per_1000"] > 0
        again = judge(CASES[:2])
        assert (again["asked"], again["dollars_per_1000"]) == (0, None)
        assert again["accuracy"] == first["accuracy"]
        more = judge(CASES[:3])
        assert more["asked"] == 1
        # two judges of one store: its dollars are counted once, not once for each
        prompts = [request["messages"][0]["content"] for request in server.requests[4:]]
        tokens = sum(len(prompt) // 4 for prompt in prompts)
        assert tokens * 10 / 1e6 * 1000 <= more["dollars_per_1000"] < (tokens + 40) * 10 / 1e6 * 1000
