"""Scores worked out by hand: what counts, what does not, and how sure it is."""

from __future__ import annotations

from typing import Any

import pytest

from lite_huatuo.evaluation import score, table
from lite_huatuo.verifier.metrics import wilson


def row(id: str, right: str, read: str | None, run: int = 0, **changes: Any) -> dict[str, Any]:
    rules = {"strict": read, "last_stated": read or right, "first_stated": read}
    made = {"id": id, "run": run, "right": right, "readings": rules, "reply": "x", "tokens": 10, "stopped": True}
    return {**made, "shuffled": False, **changes}


def test_every_reply_is_in_the_denominator() -> None:
    rows = [row("1", "A", "A"), row("2", "B", "C"), row("3", "C", None), row("4", "AB", "AB", tokens=30)]
    rows += [
        row("5", "A", None, reply=" \n"),
        row("6", "A", "A", stopped=False),
        row("7", "A", "B"),
        row("8", "A", "A"),
    ]
    found = score.summarise(rows, rule="strict")
    assert (found["questions"], found["replies"], found["failed"]) == (8, 8, 0)
    assert found["accuracy"] == 4 / 8
    share = wilson(4, 8)
    assert (found["low"], found["high"], found["interval"]) == (share.low, share.high, "wilson")
    assert found["unread"] == {"count": 2, "share": 0.25}
    assert found["empty"] == found["cut"] == {"count": 1, "share": 0.125}
    assert found["by_rule"]["last_stated"] == {"accuracy": 6 / 8, "unread_share": 0.0}
    assert (found["tokens_mean"], found["tokens_median"]) == (12.5, 10)
    assert found["standard_error_over_runs"] is found["shuffle_spread"] is None


def test_a_failure_is_counted_and_in_no_share() -> None:
    found = score.summarise([row("1", "A", "A"), row("2", "A", None, failure="HTTP 500")], rule="strict")
    assert (found["failed"], found["replies"], found["accuracy"]) == (1, 1, 1.0)
    assert found["unread"]["count"] == 0


def test_half_of_two_letters_is_wrong() -> None:
    assert score.summarise([row("1", "AB", "A"), row("2", "A", "AB")], rule="strict")["accuracy"] == 0


def test_several_runs_vary_over_runs_and_questions() -> None:
    first = [row(str(n), "A", "A" if n < 6 else "B", shuffled=True) for n in range(10)]
    second = [row(str(n), "A", "A" if n < 8 else "B", run=1, shuffled=True) for n in range(10)]
    found = score.summarise(first + second, rule="strict")
    assert found["runs"] == {"0": 0.6, "1": 0.8}
    assert found["accuracy"] == pytest.approx(0.7)
    assert found["standard_error_over_runs"] == pytest.approx(0.1)  # 0.2 / sqrt(2) / sqrt(2)
    assert found["shuffle_spread"] == pytest.approx(0.2)
    assert (found["questions"], found["replies"]) == (10, 20)
    assert found["interval"] == "bootstrap over questions"
    # ten questions, not twenty replies: wider than Wilson's interval of 14 of 20
    assert found["high"] - found["low"] > wilson(14, 20).high - wilson(14, 20).low


def test_a_bootstrap_of_a_fair_coin_is_its_normal_interval() -> None:
    low, high = score.bootstrap_mean([0.0, 1.0] * 200, seed=3)
    assert (low, high) == (pytest.approx(0.5 - 1.96 * 0.025, abs=0.004), pytest.approx(0.5 + 1.96 * 0.025, abs=0.004))
    assert score.bootstrap_mean([0.0, 1.0] * 200, seed=3) == (low, high)
    assert score.bootstrap_mean([1.0] * 5) == (1.0, 1.0)
    assert score.bootstrap_mean([]) == (0.0, 1.0)


def test_an_average_of_seven_needs_seven() -> None:
    report: dict[str, Any] = {
        name: {"column": column, "accuracy": 0.1 * place}
        for place, (name, column) in enumerate(zip("abcdefg", table.COLUMNS, strict=True))
    }
    report["other"] = {"column": None, "accuracy": 1.0}
    assert table.row(report)[table.AVERAGE] == pytest.approx(30.0)
    del report["c"]
    assert table.AVERAGE not in table.row(report)
    assert list(table.rows({"mine": report})) == ["mine", *table.PAPER]
    assert table.PAPER["paper: SFT + PPO"] == {"MedQA": 72.6, "MedMCQA": 60.4, "PubMedQA": 79.2, table.AVERAGE: 63.9}
