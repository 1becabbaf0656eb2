"""Benchmarks: the shipped ones, the questions they give, how those are drawn, arranged and asked."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_huatuo import jsonl
from lite_huatuo.errors import RecipeError, RecordError
from lite_huatuo.evaluation import answers, benchmarks, table
from lite_huatuo.exam_rows import exam_from_row
from lite_huatuo.prompts.exam import PROMPTS
from lite_huatuo.records import ExamQuestion

SHIPPED = benchmarks.shipped()


def question(id: str = "q", **changes: Any) -> ExamQuestion:
    made = {"options": {"A": "Aspirin", "B": "Bleach", "C": "Coal", "D": "Dill"}, "answer_idx": "B", "answer": "Bleach"}
    return ExamQuestion(**{"id": id, "question": "Which?", **made, **changes})


def test_the_shipped_benchmarks_are_the_papers_seven_and_the_chinese_ones() -> None:
    assert {each.column for each in SHIPPED.values() if each.column} == set(table.COLUMNS)
    assert {"mcmle", "cmexam", "cmb", "cmmlu_medical"} <= set(SHIPPED)
    assert {name: each.runs for name, each in SHIPPED.items() if each.runs > 1} == {
        "gpqa_genetics": 5,
        "gpqa_molecular_biology": 5,
    }
    assert all(each.rule in answers.RULES and each.prompt in PROMPTS for each in SHIPPED.values())


# Where this fails, give the changed text a new name and raise the versions of the benchmarks that use it.
def test_a_changed_prompt_has_a_new_name() -> None:
    content = json.dumps(PROMPTS, ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "ee4b0d6a867f859f"


@pytest.mark.parametrize("name", PROMPTS)
def test_a_question_is_asked_in_its_language_with_all_it_has(name: str) -> None:
    benchmark = SHIPPED["medqa"].model_copy(update={"prompt": name})
    english = benchmarks.ask(benchmark, question(context="A $1 study."))
    assert "Which?\n\nA. Aspirin\nB. Bleach\nC. Coal\nD. Dill" in english
    assert ("A $1 study." in english) == name.startswith("context")
    assert "Answer" in english
    assert "回答" in benchmarks.ask(benchmark, question(language="zh"))
    assert benchmarks.ask(benchmark, question(language="es")) == benchmarks.ask(benchmark, question())


def test_questions_come_from_a_file_of_the_same_shape(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{n}", "question": "Q?", "options": {"A": "x", "B": "y"}, "answer_idx": "A", "subject": subject}
        for n, subject in enumerate(["health", "biology", "health"])
    ]
    rows.append({"id": "q3", "question": "Q?", "options": {"A": "x", "B": "y"}, "answer_idx": "F", "subject": "health"})
    jsonl.write(tmp_path / "mine.jsonl", [*rows, rows[0]])
    name, benchmark = benchmarks.choose(f"mmlu_pro_health={tmp_path}/mine.jsonl", SHIPPED)
    loaded = benchmarks.load(benchmark)
    assert name == "mmlu_pro_health"
    assert [each.id for each in loaded.questions] == ["q0", "q2"]
    assert len(loaded.refused) == 1
    assert "answer is no option" in loaded.refused[0]
    jsonl.write(tmp_path / "mine.jsonl", [{**rows[0], "subject": "law"}])
    with pytest.raises(RecordError, match="no questions"):
        benchmarks.load(benchmark)
    jsonl.write(tmp_path / "mine.jsonl", [{key: value for key, value in rows[0].items() if key != "subject"}])
    with pytest.raises(RecordError, match="none of the fields category, subject"):
        benchmarks.load(benchmark)


@pytest.mark.parametrize(
    ("word", "told"), [("medqq", "did you mean medqa"), ("x", "there are medqa"), ("medqa=", "no file after")]
)
def test_an_unknown_benchmark_is_told(word: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        benchmarks.choose(word, SHIPPED)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {title: T, sources: [x.jsonl], prompt: one-1, version: 1, rulez: strict}", "did you mean rule"),
        ("a: {title: T, sources: [x.jsonl], prompt: one-9, version: 1}", "is not one of one-1"),
        ("A b: {title: T}", "small letters"),
        ("[1", "not valid YAML"),
        ("just text", "mapping"),
    ],
)
def test_a_wrong_benchmarks_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RecipeError, match=told):
        benchmarks.own(tmp_path / "own.yaml")


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 5))
def test_more_questions_include_the_fewer(few: int, more: int, seed: int) -> None:
    all_of_them = [question(f"q{n}") for n in range(25)]
    less, rest = (benchmarks.draw(all_of_them, limit, seed) for limit in (few, few + more))
    assert len(less) == min(few, 25)
    assert {each.id for each in less} <= {each.id for each in rest}
    assert benchmarks.draw(all_of_them, None) == all_of_them


@settings(max_examples=200)
@given(st.text(min_size=1, max_size=5), st.integers(0, 9), st.sampled_from(["B", "AD", "ABCD"]))
def test_another_order_keeps_what_is_right(id: str, run: int, right: str) -> None:
    before = question(id, answer_idx=right)
    after = benchmarks.arrange(before, run, shuffle=True)
    assert {after.options[letter] for letter in after.answer_idx} == {before.options[letter] for letter in right}
    assert sorted(after.options.values()) == sorted(before.options.values())
    assert list(after.options) == list(before.options)
    assert after == benchmarks.arrange(before, run, shuffle=True)
    if run == 0:
        assert after == before


def test_orders_differ_between_runs_and_questions() -> None:
    orders = {
        tuple(benchmarks.arrange(question(f"q{n}"), run, shuffle=True).options.values())
        for n in range(9)
        for run in range(9)
    }
    assert len(orders) > 12


@pytest.mark.parametrize("text", ["All of the above", "Both A and C", "A and B", "以上都是", "None of these"])
def test_options_that_speak_of_others_keep_their_places(text: str) -> None:
    fixed = question(options={"A": "Aspirin", "B": "Bleach", "C": "Coal", "D": text})
    assert all(benchmarks.arrange(fixed, run, shuffle=True) == fixed for run in range(8))


def test_gpqa_pubmedqa_and_cmmlu_rows() -> None:
    gpqa = {"Record ID": "rec1", "Question": "Q?", "Subdomain": "Genetics", "Correct Answer": "I\n"}
    gpqa.update({f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)})
    found = exam_from_row(gpqa, "f:1")
    assert (found.id, found.options[found.answer_idx], found.source) == ("rec1", "I", "GPQA")
    assert len({exam_from_row({**gpqa, "Question": f"Q{n}?"}, "f:1").answer_idx for n in range(30)}) == 4
    hub = {"pubid": 7, "question": "Q?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}
    found = exam_from_row(hub, "f:1")
    assert (found.id, found.context, found.answer_idx) == ("pubmedqa-7", "One.\nTwo.", "C")
    assert found.options == {"A": "yes", "B": "no", "C": "maybe"}
    cmmlu = {"Question": "问？", "A": "一", "B": "二", "C": "三", "D": "四", "Answer": "D"}
    assert exam_from_row(cmmlu, "f:1").answer == "四"


def test_a_hub_source_may_name_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def load_dataset(name: str, config: str | None, **options: object) -> list[dict]:
        seen.append((name, config, options))
        return [{"question": "Q?", "options": ["x", "y"], "answer_idx": "A"}]

    builder = types.SimpleNamespace(config=types.SimpleNamespace(data_files=None))
    fake = types.SimpleNamespace(load_dataset=load_dataset, load_dataset_builder=lambda *_, **__: builder)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    benchmark = SHIPPED["medqa"].model_copy(update={"sources": ["org/name:part@abc123#test"]})
    assert len(benchmarks.load(benchmark).questions) == 1
    assert seen[-1] == ("org/name", "part", {"split": "test", "revision": "abc123"})


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("medqa", "medqa_us", 300),
        ("medmcqa", "medmcqa", 300),
        ("pubmedqa", "pubmedqa", 120),
        ("mmlu_pro_health", "mmlu_pro", 158),
        ("mmlu_pro_biology", "mmlu_pro", 142),
        ("mcmle", "mcmle_zh", 200),
        ("cmexam", "cmexam_zh", 200),
    ],
)
def test_real_questions_are_read_asked_and_their_answers_read_back(
    test_data: Path, name: str, file: str, count: int
) -> None:
    name, benchmark = benchmarks.choose(f"{name}={test_data}/exam_eval/{file}.jsonl", SHIPPED)
    loaded = benchmarks.load(benchmark)
    assert (len(loaded.questions), loaded.refused) == (count, [])
    for each in loaded.questions:
        assert all(text in benchmarks.ask(benchmark, each) for text in (each.question, *each.options.values()))
        said = "答案是" if each.language == "zh" else "The answer is "
        reply = f"{said}{each.answer_idx}."
        assert {answers.read(rule, reply, each.options) for rule in answers.RULES} == {each.answer_idx}
