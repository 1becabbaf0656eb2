"""Reading rules against replies labelled by hand, and against every text hypothesis can think of."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_huatuo import jsonl
from lite_huatuo.evaluation import answers, truth
from lite_huatuo.response_format import render

DATA = Path(__file__).parent.parent / "data"
FOUR = {"A": "Aspirin", "B": "Vitamin C", "C": "Aspirin and warfarin", "D": "No treatment"}


@cache
def labelled() -> list[dict]:
    return [row for path in sorted(DATA.glob("readings_*.jsonl")) for _, row in jsonl.iter_rows(path)]


def test_the_labelled_replies_are_many_and_varied() -> None:
    rows = labelled()
    assert len(rows) >= 500
    assert len({(row["reply"], str(row["options"])) for row in rows}) == len(rows)
    assert sum(row["language"] == "zh" for row in rows) >= 100
    assert sum(row["stated"] == "" for row in rows) >= 100
    assert sum(len(row["stated"]) > 1 for row in rows) >= 15
    assert len({row["style"] for row in rows}) >= 80
    assert all(set(row["stated"]) <= set(row["options"]) for row in rows)


def test_what_strict_reads_is_what_was_stated() -> None:
    found = truth.precision(labelled(), "strict")
    wrong = [
        (row["id"], reading, row["stated"])
        for row in labelled()
        if (reading := answers.read("strict", row["reply"], row["options"])) and reading != row["stated"]
    ]
    assert found.value is not None
    assert found.value >= 0.99, wrong
    assert truth.coverage(labelled(), "strict").value >= 0.65
    assert truth.recall(labelled(), "strict").value >= 0.88


@pytest.mark.parametrize("rule", ["last_stated", "first_stated"])
def test_the_loose_rules_read_more_and_err_more(rule: str) -> None:
    assert truth.recall(labelled(), rule).value > truth.recall(labelled(), "strict").value - 0.02
    assert 0.8 < truth.precision(labelled(), rule).value < truth.precision(labelled(), "strict").value


@pytest.mark.parametrize(
    ("reply", "strict", "last", "first"),
    [
        ("The answer is A. Wait, no. The answer is B.", None, "B", "A"),
        ("The answer is vitamin C.", "B", "B", "B"),
        ("The answer is C.", "C", "C", "C"),
        ("Answer: Ｃ", "C", "C", "C"),
        ("答案：（Ｂ）", "B", "B", "B"),
        ("故选Ａ、Ｂ。", "AB", "AB", "AB"),
        ("The answer is E.", None, None, None),
        ("The answer is A. Vitamin C", None, None, None),
        ("A. Aspirin\nB. Vitamin C\nC. Aspirin and warfarin\nD. No treatment", None, None, None),
        ("", None, None, None),
    ],
)
def test_readings_by_rule(reply: str, strict: str | None, last: str | None, first: str | None) -> None:
    assert [answers.read(rule, reply, FOUR) for rule in answers.RULES] == [strict, last, first]


DRUGS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Dabigatran"}
HERBS = {"A": "黄连", "B": "附子", "C": "干姜", "D": "半夏"}


@pytest.mark.parametrize(
    ("reply", "stated"),
    [
        ("The answers are [A] and [D].", "AD"),
        ("Both (A) and (D) are correct.", "AD"),
        ("I choose (a), (c) and (d).", "ACD"),
        ("答案：（Ａ）（Ｄ）", "AD"),
        ("（A）和（D）都正确", "AD"),
        ("答案是【A】、【C】", "AC"),
        ("Answer:\nA\nD", "AD"),
        ("1. A\n2. D", "AD"),
        ("Answer:\n(A) Aspirin\n(D) Dabigatran", "AD"),
        ("Answer:\nA. Aspirin\nB. Heparin\nC. Warfarin\nD. Dabigatran", None),
        ("The answer is (A) or (D).", None),
        ("The answer is (A). (D) is wrong.", "A"),
        ("D\nEach option:\n\nOption A: Aspirin\n- thins blood", "D"),
        ("**Final Diagnosis:** Heparin", "B"),
        ("Differential diagnosis: Heparin or Aspirin. It remains unclear", None),
    ],
)
def test_several_letters_are_read_all_or_not_at_all(reply: str, stated: str | None) -> None:
    assert answers.read("strict", reply, DRUGS) == stated


@pytest.mark.parametrize(
    ("reply", "stated"),
    [
        ("回阳救逆的主药是附子。附子辛热。", "B"),
        ("各药功效不同。因此，寒痰主要选用干姜。", "C"),
        ("本品性寒味苦。所以湿热痢疾见于黄连证者，属于黄连。", "A"),
        ("燥湿化痰的药物包括半夏。其他选项如黄连、附子、干姜都不是化痰药。", "D"),
        ("三味药各有所长，但附子的可能性最大。", "B"),
        ("黄连和附子都有可能。", None),
        ("黄连的特点是苦寒。附子的特点是辛热。", None),
        ("（A选项正确），（B选项正确）。最终答案：C", "C"),
        ("此方不是附子。", None),
    ],
)
def test_chinese_conclusions_by_an_options_text(reply: str, stated: str | None) -> None:
    assert answers.read("strict", reply, HERBS) == stated


def test_only_the_final_response_is_read() -> None:
    reply = render("The answer is A. No, B.", "The answer is D.")
    assert {answers.read(rule, reply, FOUR) for rule in answers.RULES} == {"D"}
    assert answers.final_response("## Thinking\n\nThe answer is A") == ""
    assert answers.final_response("<think>The answer is A") == ""
    assert answers.final_response("<think>A?</think>\nB") == "B"
    assert answers.final_response("preface\n## Final Response\nC") == "C"
    assert answers.final_response(" D ") == "D"


PIECES = [
    *("The answer is ", "A", "B", "I", "E", " or ", "，", "答案是", "选", "\\boxed{", "}", "(", ")", ".", "\n", "not "),
    *(
        "Aspirin",
        "aspirin and warfarin",
        "**",
        "ß",
        "İ",
        "ﬁ",
        "<answer>",
        "</answer>",
        '"answer": ',
        "is correct",
        "Ａ",
    ),
    *("\u3000", "?", "## Final Response\n", "</think>", "✅", "维生素C", "\u2028", "\x00", "🇨", "1. "),
]
OPTIONS = st.dictionaries(
    st.sampled_from("ABCDEFGHIJ"),
    st.one_of(
        st.sampled_from(["Aspirin", "aspirin and warfarin", "A", "维生素C", "a+b(", "", "ß"]), st.text(max_size=8)
    ),
    min_size=1,
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=12).map("".join)


@settings(max_examples=400)
@given(TEXTS, OPTIONS, st.sampled_from(sorted(answers.RULES)))
def test_no_rule_ever_returns_what_is_no_option(text: str, options: dict[str, str], rule: str) -> None:
    reading = answers.read(rule, text, options)
    assert reading is None or (reading and set(reading) <= set(options) and list(reading) == sorted(set(reading)))


@settings(max_examples=60)
@given(st.sampled_from([row["id"] for row in labelled()]), st.sampled_from("ABCDEFGHIJ"))
def test_a_letter_whose_option_is_gone_is_not_read(id: str, letter: str) -> None:
    row = next(row for row in labelled() if row["id"] == id)
    fewer = {key: text for key, text in row["options"].items() if key != letter}
    for rule in answers.RULES:
        assert letter not in (answers.read(rule, row["reply"], fewer) or "")


@pytest.mark.parametrize(
    "piece", ["The answer is ", "A, ", "is the correct ", "选", "(", "most ", "*a ", "\\boxed{", "$", "| "]
)
def test_a_reply_that_repeats_itself_takes_no_time(piece: str) -> None:
    start = time.process_time()
    for rule in answers.RULES:
        answers.read(rule, piece * (answers.MOST // len(piece)), {"A": "x", "B": "y", "I": "z"})
    assert time.process_time() - start < 5
