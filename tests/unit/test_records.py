"""Records: our own rows and the published ones are read, and a row that cannot be used says where and why."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_huatuo.errors import LiteHuatuoError, RecordError
from lite_huatuo.records import (
    ExamQuestion,
    SFTExample,
    VerifiableProblem,
    detect_language,
    problem_from_row,
    sft_from_row,
    to_row,
)

WHERE = "problems.jsonl:17"
# Rows with the field names of FreedomIntelligence/medical-o1-verifiable-problem and medical-o1-reasoning-SFT.
PUBLISHED_PROBLEM = {
    "Open-ended Verifiable Question": "Which virus causes croup?",
    "Ground-True Answer": "Parainfluenza virus",
}
PUBLISHED_SFT = {
    "Question": "Which virus causes croup?",
    "Complex_CoT": "Barking cough, so…",
    "Response": "Parainfluenza.",
}
MCQ = {
    "question": "Which of these causes croup?",
    "options": {"A": "RSV", "B": "Parainfluenza virus"},
    "answer_idx": "B",
    "answer": "Parainfluenza virus",
}
OWN_PROBLEM = {"id": "p1", "question": "Which virus causes croup?", "ground_truth": "parainfluenza virus"}
OWN_SFT = {
    "id": "s1",
    "question": "Which virus causes croup?",
    "complex_cot": "Barking cough.",
    "response": "Parainfluenza.",
}


def test_a_published_problem_is_read() -> None:
    problem = problem_from_row(PUBLISHED_PROBLEM, WHERE)
    assert (problem.question, problem.ground_truth) == ("Which virus causes croup?", "Parainfluenza virus")
    assert (problem.language, problem.source) == ("en", "")


def test_a_problem_takes_the_open_question_and_not_the_multiple_choice_one() -> None:
    everything = {**MCQ, **PUBLISHED_SFT, **PUBLISHED_PROBLEM, "Question": "another"}
    for row in (everything, dict(reversed(everything.items()))):  # whatever the order of the fields
        assert problem_from_row(row, WHERE).question == "Which virus causes croup?"


def test_our_own_question_wins_where_the_row_is_ours() -> None:
    row = {**OWN_PROBLEM, "Open-ended Verifiable Question": "the question it was made from"}
    assert problem_from_row(row, WHERE).question == OWN_PROBLEM["question"]


@pytest.mark.parametrize("name", ["ground_truth", "Ground-True Answer", "Ground-Truth Answer"])
def test_every_name_of_the_ground_truth_is_known(name: str) -> None:
    assert problem_from_row({"question": "Q?", name: "copper"}, WHERE).ground_truth == "copper"


def test_a_published_sft_example_is_read() -> None:
    example = sft_from_row({**MCQ, **PUBLISHED_SFT}, "sft.jsonl:1")
    assert (example.question, example.complex_cot, example.response) == tuple(PUBLISHED_SFT.values())
    assert (example.ground_truth, example.provenance) == (None, {"origin": "published"})


def test_an_sft_example_keeps_ground_truth_and_provenance() -> None:
    row = {**OWN_SFT, "ground_truth": "parainfluenza virus", "provenance": {"origin": "searched", "rounds": 2}}
    example = sft_from_row(row, WHERE)
    assert (example.id, example.ground_truth, example.provenance) == ("s1", row["ground_truth"], row["provenance"])
    assert sft_from_row({**PUBLISHED_SFT, "Ground-True Answer": "x"}, WHERE).ground_truth == "x"


def test_our_own_sft_question_wins_where_the_row_is_ours() -> None:
    assert sft_from_row({**OWN_SFT, "Question": "another"}, WHERE).question == OWN_SFT["question"]


@pytest.mark.parametrize(
    ("read", "record"),
    [
        (problem_from_row, VerifiableProblem("p", "问题?\u2028x", "铜", "zh", "demo")),
        (problem_from_row, VerifiableProblem("p", "q", "a")),
        (sft_from_row, SFTExample("s", "q", "c\nc", "r", "a", {"origin": "searched", "path": ["Backtracking"]})),
        (sft_from_row, SFTExample("s", "q", "c", "r", None, {"origin": "published"})),
    ],
)
def test_a_record_written_and_read_is_the_same(read, record) -> None:
    assert read(json.loads(json.dumps(to_row(record))), WHERE) == record


def test_fields_that_are_none_are_left_out_of_the_row() -> None:
    assert "ground_truth" not in to_row(SFTExample("s", "q", "c", "r"))
    assert "context" not in to_row(ExamQuestion("e", "q", {"A": "x"}, "A", "x"))


def test_text_is_stripped_and_numbers_become_text() -> None:
    problem = problem_from_row({"id": 7, "question": " How many? \n", "ground_truth": 46}, WHERE)
    assert (problem.id, problem.question, problem.ground_truth) == ("7", "How many?", "46")
    assert problem_from_row({"question": "pH?", "ground_truth": 7.4}, WHERE).ground_truth == "7.4"
    assert problem_from_row({"question": "How many?", "ground_truth": 0}, WHERE).ground_truth == "0"


def test_an_id_is_made_of_the_content_and_stays() -> None:
    first, again = (problem_from_row({**PUBLISHED_PROBLEM, "extra": n}, f"f:{n}") for n in range(2))
    other = problem_from_row({**PUBLISHED_PROBLEM, "Open-ended Verifiable Question": "Other?"}, WHERE)
    assert first == again
    assert first.id != other.id
    assert first.id != problem_from_row({**PUBLISHED_PROBLEM, "Ground-True Answer": "another"}, WHERE).id
    # sha256 of question and ground truth, first 16 hex digits: a change would orphan every file made before
    digest = hashlib.sha256(f"{first.question}\0{first.ground_truth}".encode()).hexdigest()
    assert first.id == f"q-{digest[:16]}"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "Q?"}, ["missing ground truth", "Ground-True Answer"]),
        ({"ground_truth": "x"}, ["missing question", "Open-ended Verifiable Question"]),
        ({}, ["missing question"]),
        ({"question": "", "ground_truth": "x"}, ["empty question", "fill it or remove the row"]),
        ({"question": " \n", "ground_truth": "x"}, ["empty question"]),
        ({"question": "Q?", "ground_truth": ""}, ["empty ground truth"]),
        (
            {"Open-ended Verifiable Question": "Q?", "Ground-True Answer": " "},
            ["empty ground truth (Ground-True Answer)"],
        ),
        ({"question": ["Q?"], "ground_truth": "x"}, ["question (question) must be text, not list"]),
        ({"question": "Q?", "ground_truth": None}, ["missing ground truth"]),
        ({"question": "Q?", "ground_truth": True}, ["must be text, not bool"]),
        ({"question": "Q?", "ground_truth": {"a": 1}}, ["must be text, not dict"]),
        ({"question": "Q?", "ground_truth": float("nan")}, ["missing ground truth"]),
        ({"question": "Q?", "ground_truth": float("inf")}, ["must be text, not float"]),
        ({"question": "half \ud83d", "ground_truth": "x"}, ["question (question) holds half a character"]),
    ],
)
def test_a_bad_problem_tells_file_line_and_reason(row: dict, told: list[str]) -> None:
    with pytest.raises(RecordError) as caught:
        problem_from_row(row, WHERE)
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert all(part in str(caught.value) for part in told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"Complex_CoT": None}, "missing complex CoT"),
        ({"Complex_CoT": ""}, "empty complex CoT"),
        ({"Response": []}, "response (Response) must be text, not list"),
        ({"Question": ""}, "empty question"),
        ({"provenance": "searched"}, "provenance must be an object, not str"),
    ],
)
def test_a_bad_sft_example_tells_file_line_and_reason(change: dict, told: str) -> None:
    with pytest.raises(RecordError, match=r"^problems\.jsonl:17: ") as caught:
        sft_from_row({**PUBLISHED_SFT, **change}, WHERE)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", list(PUBLISHED_SFT))
def test_an_sft_example_lacking_a_field_names_it(name: str) -> None:
    with pytest.raises(RecordError, match=f"missing .*{name}"):
        sft_from_row({key: value for key, value in PUBLISHED_SFT.items() if key != name}, WHERE)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "id",
                "question",
                "Question",
                "ground_truth",
                "Ground-True Answer",
                "complex_cot",
                "Complex_CoT",
                "response",
                "Response",
                "provenance",
                "language",
                "Open-ended Verifiable Question",
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_any_json_row_is_read_or_refused_with_our_error(row: dict) -> None:
    for read in (problem_from_row, sft_from_row):
        try:
            record = read(row, WHERE)
        except LiteHuatuoError as error:
            assert str(error).startswith(WHERE)  # noqa: PT017
        else:
            assert record.question
            assert record.question == record.question.strip()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Which virus causes croup?", "en"),
        ("哪种病毒引起哮吼？", "zh"),
        ("", "en"),
        ("CT 示 EGFR 突变", "zh"),
        ("The sign called 麦氏点 is tender in appendicitis", "en"),
        ("中abcd", "zh"),
        ("中abcde", "en"),  # one in five, one in six
    ],
)
def test_the_language_is_found(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_a_given_language_and_source_are_kept() -> None:
    problem = problem_from_row({**OWN_PROBLEM, "language": "zh", "source": "demo"}, WHERE)
    assert (problem.language, problem.source) == ("zh", "demo")
