"""The price of a job before it is paid: a rehearsal with the real steps and a stand-in for each model."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import pipeline, profile, search
from lite_huatuo.data.asking import Request
from lite_huatuo.planning import cost
from lite_huatuo.records import ExamQuestion, VerifiableProblem

LUNA = profile.load("gpt-6-luna")
TEXT = {"en": "A patient has had a cough and fever since Monday. What is it most likely? ", "zh": "患者发热咳嗽三日，"}
EXAMS = [
    ExamQuestion(f"{language}{n}", f"{TEXT[language] * 6}{n}", dict(zip("ABCDE", "vwxyz", strict=True)), "ABCDE"[n % 5],
                 "vwxyz"[n % 5], language)
    for n in range(60) for language in ("en", "zh")
]  # fmt: skip
PROBLEMS = [VerifiableProblem(exam.id, exam.question, "y", exam.language) for exam in EXAMS]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a rehearsal went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def searched(count: int, right: float, *, label_guided: bool = False) -> dict[str, cost.Line]:
    model = cost.Rehearsal(LUNA, cost.Assumed(right=right))
    work = pipeline.search_work(
        model.ask, search.teacher_verify(model.ask), model="m", rounds=3, attempts=3, seed=0, label_guided=label_guided
    )
    assert asyncio.run(cost.rehearse(PROBLEMS[:count], work, [model])) == 0, "no reply of the stand-in is refused"
    return model.lines


def calls(lines: dict[str, cost.Line], *steps: str) -> float:
    return sum(line.calls for step, line in lines.items() if step.startswith(steps))


def test_a_search_that_is_always_right_asks_four_times() -> None:
    lines = searched(20, 1.0)
    assert {step: line.calls for step, line in lines.items()} == {
        "search.first": 20, "search.verify": 40, "rewrite.thinking": 20, "rewrite.response": 20,
    }  # fmt: skip


def test_a_search_that_is_never_right_asks_all_there_is_to_ask() -> None:
    lines = searched(20, 0.0)
    assert calls(lines, "search.first") == 3 * 20
    assert calls(lines, "search.") == 3 * 4 * 2 * 20
    assert calls(lines, "rewrite") == 0
    guided = searched(20, 0.0, label_guided=True)
    assert calls(guided, "search.label_guided") == 20


def test_more_right_conclusions_cost_less() -> None:
    dollars = [sum(line.dollars(LUNA) for line in searched(30, share).values()) for share in (0.1, 0.5, 0.9)]
    assert dollars == sorted(dollars, reverse=True)


def test_counts_scale_with_the_records() -> None:
    part, all_ = cost.scaled(searched(40, 0.5), 3), searched(120, 0.5)
    assert calls(part, "") == pytest.approx(calls(all_, ""), rel=0.1)
    assert sum(line.input for line in part.values()) == pytest.approx(sum(li.input for li in all_.values()), rel=0.1)


def test_prompts_are_counted_in_full_and_replies_with_hidden_reasoning() -> None:
    model = cost.Rehearsal(LUNA)
    asyncio.run(model.ask(Request("search.first", "x" * 4000, 5000)))
    line = model.lines["search.first"]
    assert (line.calls, line.input) == (1, 1001)
    assert line.output == cost.THOUGHT_TOKENS + cost.REASONING * LUNA.reasoning_tokens
    assert line.dollars(LUNA) == pytest.approx((1001 * 0.10 + line.output * 0.50) / 1e6)
    assert line.dollars(LUNA, batch=True) == pytest.approx(line.dollars(LUNA) / 2)
    unpaid = cost.Rehearsal(LUNA)
    asyncio.run(unpaid.unpaid(Request("search.verify", "x", 5)))
    assert not unpaid.lines


@pytest.mark.parametrize("solved", [0.0, 0.7, 1.0])
def test_small_models_are_right_as_often_as_assumed(solved: float) -> None:
    models = [cost.Rehearsal(LUNA, cost.Assumed(solved=solved)) for _ in range(3)]
    work = pipeline.filter_work([models[0].ask, models[1].ask], models[2].ask)
    candidates = list(pipeline.candidates(EXAMS, min_length=20))
    assert asyncio.run(cost.rehearse(candidates, work, models)) == 0
    first, second, judged = (calls(model.lines, "") for model in models)
    assert first == 120
    assert second == pytest.approx(120 * solved, abs=15)
    assert judged == pytest.approx(120 * (1 - solved**2), abs=15)


def test_reformatting_is_rehearsed_without_a_failure() -> None:
    model = cost.Rehearsal(LUNA)
    assert asyncio.run(cost.rehearse(EXAMS, pipeline.reformat_work(model.ask), [model])) == 0
    assert {step: line.calls for step, line in model.lines.items()} == {"reformat.write": 120, "reformat.check": 120}


def test_the_sample_is_spread_over_all_records() -> None:
    assert cost.spread(lambda: iter(range(10)), 20) == (list(range(10)), 10)
    assert cost.spread(lambda: iter(range(1000)), 4) == ([0, 250, 500, 750], 1000)
    assert cost.spread(lambda: iter(()), 4) == ([], 0)


def test_tokens_of_two_scripts() -> None:
    assert cost.count_tokens("abcd" * 100) == 101
    assert cost.count_tokens("患" * 300) == 201


def test_dry_run_needs_no_key_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lite_huatuo.cli.main import cli

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["data", "search", "shipped:problems_en", "--to", "t.jsonl", "--teacher", "gpt-6-luna", "--dry-run"]
    cli(words, standalone_mode=False)
    shown = capsys.readouterr().out
    assert "search of 144 records: an estimate from a rehearsal of 50; nothing was asked" in shown
    lines = {row.split(" | ")[0].strip("| "): row for row in shown.split("\n") if row.startswith("|")}
    dollars = float(lines["all"].strip("| ").split(" | ")[-1])
    cli([*words, "--batch"], standalone_mode=False)
    batch = next(row for row in capsys.readouterr().out.split("\n") if row.startswith("| all"))
    assert float(batch.strip("| ").split(" | ")[-1]) == pytest.approx(dollars / 2, abs=0.011)
    assert list(tmp_path.iterdir()) == []
