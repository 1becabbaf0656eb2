"""Decontamination: copies are found whatever a copy changes, phrases that all exams share do not count."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import decontaminate, overlap, side_files, sources
from lite_huatuo.data.decontaminate import Screen

WORDS = [f"w{''.join(random.Random(n).choices('abcdefghiklmnoprstu', k=5))}" for n in range(4000)]


def prose(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def screen(*questions: str, **limits: Any) -> Screen:
    made = Screen(**limits)
    for number, question in enumerate(questions):
        made.add({"question": question}, f"eval:{number}")
    return made


def rule(made: Screen, question: str, **fields: Any) -> str | None:
    reason = made.reason({"question": question, **fields})
    return reason and side_files.kind(reason)


@pytest.mark.parametrize("at", [0, 1, 15, 16, 17, 31, 100])
@pytest.mark.parametrize(("size", "found"), [(63, None), (64, "64 characters"), (65, "64 characters")])
def test_a_run_of_64_characters_is_found_wherever_it_stands_and_none_shorter(
    at: int, size: int, found: str | None
) -> None:
    theirs = prose(1, 60)
    ours = f"{prose(2)}#{theirs[at : at + size]}#{prose(3)}"
    assert rule(screen(prose(9), theirs, everyday=None), ours) == found


def test_the_longest_run_is_told_with_where_and_what() -> None:
    theirs = prose(1, 60)
    reason = screen(prose(9), theirs).reason({"question": f"{prose(2)}#{theirs[20:220]}#{prose(3)}"})
    assert reason is not None
    assert reason.startswith("64 characters: 200 in common with eval:1: ")
    assert theirs[20:100] in reason


def test_case_width_quotes_and_space_do_not_hide_a_copy() -> None:
    theirs = 'A man says "I cannot breathe" - ' + prose(1, 30)
    ours = theirs.upper().replace('"', "”").replace(" - ", "\u2009–\n ").replace(" W", "  Ｗ")
    assert rule(screen(theirs), ours) == "64 characters"


def test_a_copy_with_a_word_changed_now_and_then_is_found() -> None:
    words = prose(1, 60).split()
    edited = [f"x{n}" if n % 11 == 5 else word for n, word in enumerate(words)]
    assert rule(screen(" ".join(words), everyday=1e-9), " ".join(edited)) in ("n-grams", "64 characters")
    few = [f"x{n}" if n % 9 == 5 else word for n, word in enumerate(words)]  # no eight words in a row are left over
    assert rule(screen(" ".join(words)), " ".join(few)) is None


def test_what_every_exam_says_does_not_count_unless_asked_for() -> None:
    phrase = "which of the following is the most appropriate next step in the management of this patient?"
    theirs = [f"{prose(n)} {phrase}" for n in range(400)]
    ours = f"{prose(1000)} {phrase}"
    assert rule(screen(*theirs), ours) is None
    assert rule(screen(*theirs, everyday=None), ours) == "64 characters"
    assert rule(screen(*theirs), theirs[7]) == "64 characters"


def test_short_questions_are_the_same_with_the_same_answer() -> None:
    made = Screen()
    made.add(
        {"question": "Drug of choice for absence seizures?", "answer": "Ethosuximide", "answer_idx": "A"}, "eval:0"
    )
    assert rule(made, "DRUG of choice for absence-seizures", ground_truth="ethosuximide") == "same question"
    assert rule(made, "Drug of choice for absence seizures?") == "same question"
    assert rule(made, "Drug of choice for absence seizures?", ground_truth="Valproate") is None
    assert rule(made, "Drug of choice for seizures?", ground_truth="Ethosuximide") is None


def test_chinese_is_compared_by_characters() -> None:
    theirs = (
        "患者，女，45岁。因反复上腹部疼痛伴反酸三个月就诊，疼痛多于餐后半小时出现，持续约一小时后自行缓解，胃镜示溃疡"
    )
    ours = theirs.replace("45岁", "52岁").replace("三个月", "两个月")
    assert rule(screen(theirs), ours + "，首选的治疗药物是什么") == "n-grams"
    assert (
        rule(
            screen(theirs),
            "患者，女，45岁。因反复头痛伴呕吐三个月就诊，头颅CT检查示右额叶占位性病变，最可能的诊断是什么呢",
        )
        is None
    )
    assert rule(screen("腰椎的特点是"), "腰椎的特点是（　　）。") == "same question"
    assert len(overlap.ngrams("一二三四五六七八九十甲乙丙")) == 2


def test_both_questions_of_a_published_row_are_compared() -> None:
    made = screen(prose(1))
    row = {"question": prose(2), "Open-ended Verifiable Question": prose(1), "Ground-True Answer": "x"}
    assert made.reason(row)
    assert made.reason({**row, "Open-ended Verifiable Question": prose(3)}) is None


def test_rows_are_kept_as_they_are_or_dropped_with_their_reason(tmp_path: Path) -> None:
    made = screen(prose(1))
    given = [
        {"id": "a", "question": prose(2), "extra": [1]},
        {"id": "b", "question": prose(1)},
        {"id": "c", "question": "痛？"},
    ]
    counts = side_files.sift(decontaminate.STEP, tmp_path / "out.jsonl", made.sift((row["id"], row) for row in given))
    assert counts == {"rows": 3, "kept": 2, "dropped": 1, "reasons": {"64 characters": 1}}
    assert [row for _, row in jsonl.iter_rows(tmp_path / "out.jsonl")] == [given[0], given[2]]
    ((_, dropped),) = jsonl.iter_rows(tmp_path / "out.dropped.jsonl")
    assert dropped["record"] == given[1]
    assert (dropped["id"], dropped["step"]) == ("b", "decontaminate")


@pytest.mark.parametrize("row", [{"text": "no question"}, {"question": " "}, {"question": None}])
def test_a_row_without_a_question_is_told(row: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"x:1: no question"):
        Screen().add(row, "x:1")
    with pytest.raises(Exception, match=r"x:1: no question"):
        list(Screen().sift([("x:1", row)]))


@pytest.mark.shared_data
def test_the_published_sample_shares_these_questions_with_the_exams(test_data: Path) -> None:
    sample = list(sources.rows(str(test_data / "upstream_sample/medical_o1_sample.json")))

    def found(folder: str, **limits: Any) -> tuple[Counter[str], str]:
        made = Screen(**limits)
        for path in sorted((test_data / folder).glob("*.jsonl")):
            for _, row in sources.rows(str(path)):
                made.add(row, row["id"])
        reasons = [reason for _, reason in made.sift(sample) if reason]
        return Counter(map(side_files.kind, reasons)), "\n".join(reasons)

    counts, reasons = found("exam_train")
    assert counts.total() == 6  # five stems are equal; the sixth shares a laboratory table with a question like it
    for copy in (
        "medqa-us-dev-652",
        "medqa-us5-train-489",
        "medqa-us5-train-341",
        "medmcqa-train-831",
        "medmcqa-train-768",
    ):
        assert f"in common with {copy}:" in reasons
    assert found("exam_eval")[0].total() == 0
    assert found("exam_eval", everyday=None)[0] == {"64 characters": 8}  # every run counts: phrases of vignettes
