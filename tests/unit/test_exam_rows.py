"""Exam rows: every published shape gives the same kind of question, and what a row leaves unclear is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lite_huatuo import exam_rows
from lite_huatuo.errors import RecordError
from lite_huatuo.exam_rows import exam_from_row
from lite_huatuo.records import ExamQuestion, to_row

FEVER = {"A": "Malaria", "B": "Dengue", "C": "Typhoid"}


def general(**changes: Any) -> dict[str, Any]:
    row = {"question": "Which parasite causes it?", "options": FEVER, "answer_idx": "A"}
    return {key: value for key, value in {**row, **changes}.items() if value is not ...}


SHAPES = {
    "MedQA, options by letter": (
        {"question": "Q?", "answer": "Dengue", "options": FEVER, "meta_info": "step1", "answer_idx": "B"},
        ("B", "Dengue", FEVER, "MedQA"),
    ),
    "MedQA, options as pairs": (
        {
            "question": "Q?",
            "answer": "Dengue",
            "options": [{"key": key, "value": value} for key, value in FEVER.items()],
            "meta_info": "step2&3",
            "answer_idx": "B",
        },
        ("B", "Dengue", FEVER, "MedQA"),
    ),
    "MedMCQA, the Hub's copy": (
        {
            "id": "4e17",
            "question": "Q?",
            "opa": "Malaria",
            "opb": "Dengue",
            "opc": "Typhoid",
            "opd": None,
            "cop": 1,
            "choice_type": "single",
            "exp": "…",
            "subject_name": "Medicine",
            "topic_name": None,
        },
        ("B", "Dengue", FEVER, "MedMCQA"),
    ),
    "CMExam": (
        {
            "Question": "疟疾由什么引起？",
            "Options": "A 疟原虫\nB 病毒\nC 细菌，\n包括杆菌\nD 真菌",
            "Answer": "A",
            "Explanation": "…",
        },
        ("A", "疟原虫", {"A": "疟原虫", "B": "病毒", "C": "细菌，\n包括杆菌", "D": "真菌"}, "CMExam"),
    ),
    "CMB, several right": (
        {
            "exam_type": "医师考试",
            "exam_class": "执业医师",
            "exam_subject": "口腔执业医师",
            "question": "下列哪些？",
            "answer": "AC",
            "question_type": "多项选择题",
            "option": {"A": "甲", "B": "乙", "C": "丙", "D": ""},
        },
        ("AC", "甲; 丙", {"A": "甲", "B": "乙", "C": "丙"}, "CMB"),
    ),
    "HEAD-QA": (
        {
            "name": "Cuaderno_2013_1_B",
            "year": "2013",
            "category": "biology",
            "qid": 1,
            "qtext": "Q?",
            "ra": 2,
            "image": None,
            "answers": [{"aid": n, "atext": text} for n, text in enumerate(FEVER.values(), 1)],
        },
        ("B", "Dengue", FEVER, "HEAD-QA"),
    ),
    "MMLU-Pro": (
        {
            "question_id": 70,
            "question": "Q?",
            "options": ["Malaria", "Dengue", "Typhoid", "N/A"],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "",
            "category": "health",
            "src": "x",
        },
        ("B", "Dengue", FEVER, "MMLU-Pro"),
    ),
    "general, only the answer's text": (
        {"question": "Q?", "options": list(FEVER.values()), "answer": "dengue."},
        ("B", "Dengue", FEVER, ""),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_published_shape_is_read(shape: str) -> None:
    row, (letter, answer, options, source) = SHAPES[shape]
    exam = exam_from_row(row, "here", cop_base=0)
    assert (exam.answer_idx, exam.answer, exam.options, exam.source) == (letter, answer, options, source)
    assert exam.question == (row.get("question") or row.get("Question") or row["qtext"])
    assert exam_from_row(to_row(exam), "again") == exam  # what is written is read back


def test_ids_are_the_rows_own_and_tell_exams_apart() -> None:
    ids = {shape: exam_from_row(row, "here", cop_base=0).id for shape, (row, _) in SHAPES.items()}
    assert ids["MedMCQA, the Hub's copy"] == "4e17"
    assert ids["HEAD-QA"] == "headqa-Cuaderno_2013_1_B-1"
    assert ids["MMLU-Pro"] == "mmlu-pro-70"
    assert exam_from_row(general(id=7, source="CMB"), "x").id == "cmb-7"
    assert (
        exam_from_row(general(), "x").id
        == exam_from_row(general(), "y").id
        != exam_from_row(general(question="?"), "x").id
    )


@pytest.mark.parametrize(
    ("told", "letters"),
    [("b", "B"), ("Ｂ", "B"), ("(B)", "B"), ("B.", "B"), ("C、a", "AC"), ("CA", "AC"), ("A, C", "AC"), ("B) ", "B")],
)
def test_letters_are_normalised(told: str, letters: str) -> None:
    assert exam_from_row(general(answer_idx=told), "x").answer_idx == letters


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('"Why?"', "Why?"),
        ('Why?"', "Why?"),
        ("“Why?”", "Why?"),
        ('He says "ouch". Why?', 'He says "ouch". Why?'),
        ("He is 6' 2\"", "He is 6' 2\""),
        ('"a" or "b"', '"a" or "b"'),
        ("  a\u2028b ", "a\u2028b"),
        ("5'-GTP'", "5'-GTP'"),
    ],
)
def test_stray_quotes_go_and_others_stay(raw: str, text: str) -> None:
    assert exam_rows.clean(raw) == text


def test_context_is_kept() -> None:
    assert exam_from_row(general(context=" Forty patients. "), "x").context == "Forty patients."
    assert exam_from_row(general(CONTEXTS=["One.", "Two."]), "x").context == "One.\nTwo."


ARROWS = {"A": "↓ ↑ ↓", "B": "↑ ↓ ↓", "C": "> 25", "D": "< 25"}


@pytest.mark.parametrize("letter", ARROWS)
def test_options_that_differ_in_signs_only_are_different(letter: str) -> None:
    assert exam_from_row(general(options=ARROWS, answer_idx=letter, answer=ARROWS[letter]), "x").answer_idx == letter
    assert exam_from_row(general(options=ARROWS, answer_idx=..., answer=ARROWS[letter]), "x").answer_idx == letter


def test_a_letter_beside_a_letter_may_be_an_options_text() -> None:
    vitamins = {"A": "D", "B": "C", "C": "A", "D": "B"}
    assert exam_from_row(general(options=vitamins, answer_idx="B", answer="C"), "x").answer == "C"
    assert exam_from_row(general(options=vitamins, answer_idx=..., answer="C"), "x").answer == "A"


def test_right_options_whose_texts_look_like_letters_are_read_again_as_written() -> None:
    exam = exam_from_row(general(options={"A": "x", "B": "y", "C": "z"}, answer_idx="BA", answer=...), "x")
    assert (exam.answer_idx, exam.answer) == ("AB", "x; y")
    assert exam_from_row(to_row(exam), "x") == exam


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (general(question=" "), "no question"),
        (general(question={"text": "Q"}), "not text"),
        (general(question="half \ud83d"), "not text"),
        (general(options=...), "no options"),
        (general(options={"A": "one", "B": ""}), "bad options"),
        (general(options={"A": "one", "a": "two", "B": "three"}), "bad options"),
        (general(options={"1": "one", "2": "two"}), "bad options"),
        (general(options={"A": ["one"], "B": "two"}), "not text"),
        (general(options=[str(n) for n in range(27)]), "bad options"),
        (general(answer_idx=...), "no answer"),
        (general(answer_idx="D"), "answer is no option"),
        (general(answer_idx=..., answer="Cholera"), "answer is no option"),
        (general(answer_idx="A", answer="Cholera"), "answer is no option"),
        (general(answer_idx="A", answer="Dengue"), "answers differ"),
        (general(answer="A", answer_idx=..., answer_index=2), "answers differ"),
        (general(answer_idx=1), "bad answer"),
        (general(answer_idx="AD"), "answer is no option"),
        (general(image=object()), "needs a picture"),
        (SHAPES["MedMCQA, the Hub's copy"][0] | {"cop": -1}, "no answer"),
        (SHAPES["MedMCQA, the Hub's copy"][0] | {"cop": 3}, "answer is no option"),  # opd is empty
        (SHAPES["HEAD-QA"][0] | {"ra": 0}, "answer is no option"),
        (SHAPES["CMExam"][0] | {"Answer": ""}, "no answer"),
        (SHAPES["CMExam"][0] | {"Options": "A 甲\nB 乙\nB 丙", "Answer": "C"}, "answer is no option"),
    ],
)
def test_a_row_without_one_clear_answer_is_refused_with_its_kind(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        exam_from_row(row, "file:3", cop_base=0)
    assert str(caught.value).startswith(f"file:3: {reason}: ")


@pytest.mark.parametrize(
    ("fields", "bases"),
    [
        ({"cop": 0}, {0}),
        ({"cop": "4"}, {1}),
        ({"cop": 2}, {0, 1}),
        ({"cop": 2.0}, {0, 1}),  # a column with a gap, as a table writes it
        ({"cop": "4.0"}, {1}),
        ({"COP": 4}, {1}),
        ({"cop": 4, "ope": "Scabies"}, {0, 1}),
        ({"cop": 5, "ope": "Scabies"}, {1}),
        ({"cop": 2, "answer_idx": "B"}, {1}),
        ({"cop": 2, "answer_idx": "C"}, {0}),
        ({"cop": 2, "answer_idx": "A"}, None),  # that row is wrong and tells nothing
        *(({"cop": value}, None) for value in (-1, None, "", float("nan"), 9)),
        ({}, None),
    ],
)
def test_what_a_row_says_of_where_its_cop_counts_from(fields: dict[str, Any], bases: set[int] | None) -> None:
    columns = {"question": "Q?", "opa": "Malaria", "opb": "Dengue", "opc": "Typhoid", "opd": "Mumps"}
    assert exam_rows.cop_bases({**columns, **fields}) == bases


def test_a_cop_is_read_from_where_it_counts_and_not_at_all_where_nobody_says() -> None:
    row = SHAPES["MedMCQA, the Hub's copy"][0]
    assert [exam_from_row(row, "x", cop_base=base).answer for base in (0, 1)] == ["Dengue", "Malaria"]
    assert exam_from_row(row | {"cop": 2.0}, "x", cop_base=1).answer == "Dengue"
    with pytest.raises(RecordError, match=r"^x: bad answer: `cop` counts from 0 or from 1"):
        exam_from_row(row, "x")


@pytest.mark.parametrize("name", ["op{}", "OP{}", "option_{}", "Option {}", "choice{}", "opt-{}", "{}"])
@pytest.mark.parametrize("size", range(2, 11))
def test_every_column_of_a_run_is_an_option(name: str, size: int) -> None:
    letters = "abcdefghij"[:size]
    options = {letter.upper(): f"text {letter}" for letter in letters}
    for write in (str, str.upper):
        row = {name.format(write(letter)): f"text {letter}" for letter in letters}
        exam = exam_from_row({"question": "Q?", **row, "answer_idx": letters[-1]}, "x")
        assert (exam.options, exam.answer) == (options, f"text {letters[-1]}")


@pytest.mark.parametrize(("first", "letters"), [(1, "ABC"), (0, "ABC")])
def test_columns_may_be_numbered(first: int, letters: str) -> None:
    columns = {f"option{first + n}": text for n, text in enumerate(("one", "two", "three"))}
    assert exam_from_row({"question": "Q?", **columns, "answer": "three"}, "x").answer_idx == letters[-1]


def test_columns_keep_their_letters_beside_empty_and_missing_ones() -> None:
    row = {"question": "Q?", "opa": "one", "opb": "", "opd": "four", "ope": float("nan"), "answer_idx": "D"}
    assert exam_from_row(row, "x").options == {"A": "one", "D": "four"}
    assert exam_from_row(general(opa=None, opb=None), "x").options == FEVER  # columns of other rows of the table
    assert exam_from_row(general(A="one", B="two", N=12), "x").options == FEVER


@pytest.mark.parametrize(
    "row", [{"A": "1", "B": "2", "D": "4"}, {"opa": "1", "opA": "2", "opb": "3"}, {"N": "1", "K": "2"}, {"opa": "1"}]
)
def test_columns_that_are_no_clear_run_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=r"^x: (bad|no) options: "):
        exam_from_row({"question": "Q?", **row, "answer_idx": "A"}, "x")


NAN = float("nan")


@pytest.mark.parametrize("nothing", [None, NAN, "nan", "NaN", "<NA>", " NaN "])
def test_nan_is_nothing_in_every_field(nothing: Any) -> None:
    plain = exam_from_row(general(), "x")
    for field in (
        "id",
        "language",
        "source",
        "context",
        "passage",
        "image",
        "Answer",
        "answer",
        "cop",
        "final_decision",
    ):
        assert exam_from_row(general(**{field: nothing}), "x") == plain, field
    entries = [{"key": key, "value": value} for key, value in {**FEVER, "D": nothing}.items()]
    for options in ({**FEVER, "D": nothing}, [*FEVER.values(), nothing], entries):
        assert exam_from_row(general(options=options), "x") == plain
    assert exam_from_row(general(CONTEXTS=nothing), "x").context is None
    for field in ("question", "answer_idx"):
        with pytest.raises(RecordError, match=r"^x: no (question|answer): "):
            exam_from_row(general(**{field: nothing}), "x")


def test_medxpertqa_and_pubmedqa_rows_are_read_as_their_authors_publish_them() -> None:
    row = {
        "id": "Text-9",
        "question": "What bit him?\nAnswer Choices: (A) A apple (B) A bat (C) A crab",
        "options": [{"letter": text[2].upper(), "content": text} for text in ("A apple", "A bat", "A crab")],
        "label": "C",
        "medical_task": "Diagnosis",
        "body_system": "Skin",
    }
    exam = exam_from_row(row, "x")
    assert (exam.question, exam.answer, exam.source) == ("What bit him?", "A crab", "MedXpertQA")
    with pytest.raises(RecordError, match="needs a picture"):
        exam_from_row({**row, "images": ["MM-9-a.jpeg"]}, "x")
    with pytest.raises(RecordError, match="label is a number"):
        exam_from_row({**row, "label": 2}, "x")
    assert exam_from_row(general(label="hard"), "x").answer == "Malaria"  # elsewhere a label may be anything
    own = {"QUESTION": "Does it help?", "CONTEXTS": ["It does.", "Often."], "final_decision": "yes", "pubid": "31"}
    exam = exam_from_row(own, "x")
    assert (exam.id, exam.question, exam.context, exam.answer) == (
        "pubmedqa-31",
        "Does it help?",
        "It does.\nOften.",
        "yes",
    )


def test_a_question_is_what_records_says() -> None:
    assert isinstance(exam_from_row(general(), "x"), ExamQuestion)
