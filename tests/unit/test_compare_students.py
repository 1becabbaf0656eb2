"""Comparing two students: the paired tests against brute force, what is compared with what, and the gate."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError
from lite_huatuo.evaluation import compare, predictions

SETTINGS = {"benchmark": "b", "version": 1, "prompt": "one-1", "rule": "strict", "shuffle": False, "temperature": 0.0}


def write(folder: Path, right: str, benchmark: str = "b", *, run: int = 0, ids: str = "", **changes: Any) -> Path:
    """Keep predictions, one for each character: "+" right, "-" wrong, "." left out."""
    folder.mkdir(exist_ok=True)
    settings = {**SETTINGS, **changes}
    (folder / f"{benchmark}.settings.json").write_text(json.dumps(settings))
    rows = [
        {
            "id": f"{ids}{n}",
            "run": run,
            "asked": f"{n}",
            "options": {"A": "x", "B": "y"},
            "shuffled": False,
            "right": "A",
            "reply": "A",
            "tokens": 1,
            "stopped": True,
            "correct": sign == "+",
            "readings": {"strict": "A" if sign == "+" else None},
        }
        for n, sign in enumerate(right)
        if sign != "."
    ]
    jsonl.append(folder / f"{benchmark}.jsonl", map(jsonl.sealed, rows))
    return folder


def brute(lost: int, won: int) -> float:
    """The share of all ways in which as many fair coins fall that are as uneven as this one, or more."""
    n = lost + won
    far = [abs(2 * sum(coins) - n) >= abs(lost - won) for coins in product((0, 1), repeat=n)]
    return sum(far) / len(far)


@given(st.integers(0, 6), st.integers(0, 6))
def test_mcnemar_is_exact(lost: int, won: int) -> None:
    assert compare.mcnemar(lost, won) == pytest.approx(brute(lost, won))


def test_mcnemar_of_many_questions() -> None:
    assert compare.mcnemar(0, 0) == 1.0
    assert compare.mcnemar(600, 600) == 1.0
    assert compare.mcnemar(700, 500) == pytest.approx(8.7e-9, rel=0.05)  # normal: z = 199/sqrt(1200) = 5.74
    assert compare.mcnemar(700, 500) == compare.mcnemar(500, 700)


def test_only_the_same_questions_are_compared(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "++++----.."), write(tmp_path / "b", "+++-++.-++")
    found = compare.compare(first, second)
    each = found.benchmarks["b"]
    assert (each.n, each.only_first, each.only_second) == (7, 1, 2)
    assert (each.first, each.second, each.difference) == (4 / 7, 5 / 7, pytest.approx(1 / 7))
    assert each.low < each.difference < each.high
    assert each.p == brute(1, 2)
    assert found.notes == [
        f"b: 1 replies are only in {first} and were left out",
        f"b: 2 replies are only in {second} and were left out",
    ]


def test_overall_is_the_mean_of_benchmarks_and_pools_their_questions(tmp_path: Path) -> None:
    for name, right in (("a", ("----", "-" * 40)), ("b", ("++--", "+" * 4 + "-" * 36))):
        write(tmp_path / name, right[0], "small")
        write(tmp_path / name, right[1], "large")
    write(tmp_path / "b", "+", "other")
    found = compare.compare(tmp_path / "a", tmp_path / "b")
    assert found.overall.difference == pytest.approx((0.5 + 0.1) / 2)
    assert 0 <= found.overall.low < 0.1
    assert 0.5 < found.overall.high <= 0.6  # all four of the small one won: (1 + 0.1) / 2 and a little
    assert (found.overall.n, found.overall.only_second, found.overall.p) == (44, 6, brute(0, 6))
    assert found.notes == [f"other: only in {tmp_path / 'b'}"]
    assert list(compare.compare(tmp_path / "a", tmp_path / "b", only=["small"]).benchmarks) == ["small"]


def test_several_runs_are_means_of_one_question(tmp_path: Path) -> None:
    for run, (a, b) in enumerate([("+-+-", "+++-"), ("+---", "+---")]):
        write(tmp_path / "a", a, run=run)
        write(tmp_path / "b", b, run=run)
    each = compare.compare(tmp_path / "a", tmp_path / "b").benchmarks["b"]
    assert (each.n, each.only_first, each.only_second, each.difference) == (4, 0, 1, 0.125)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"version": 2}, "version is 1"), ({"prompt": "x"}, "prompt is one-1"), ({"rule": "l"}, "rule")],
)
def test_scores_that_mean_different_things_are_not_compared(tmp_path: Path, changes: Any, told: str) -> None:
    with pytest.raises(RecordError, match=told):
        compare.compare(write(tmp_path / "a", "+"), write(tmp_path / "b", "+", **changes))


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "++")
    with pytest.raises(RecordError, match="no evaluation here"):
        compare.compare(first, tmp_path)
    with pytest.raises(RecordError, match="no benchmark in common"):
        compare.compare(first, write(tmp_path / "c", "+", "other"))
    with pytest.raises(RecordError, match="no question was answered in both"):
        compare.compare(first, write(tmp_path / "d", "+", ids="x"))
    changed = write(tmp_path / "e", "+")
    other = [jsonl.sealed({**row, "asked": "else"}) for _, row in jsonl.iter_rows(changed / "b.jsonl")]
    jsonl.write(changed / "b.jsonl", other)
    with pytest.raises(RecordError, match="another one"):
        compare.compare(first, changed)
    assert "temperature is 0.0" in compare.compare(first, write(tmp_path / "f", "++", temperature=1.0)).notes[0]


def test_the_gate_stops_what_is_significantly_worse_and_nothing_else(tmp_path: Path) -> None:
    def reasons(name: str, *pairs: tuple[str, str]) -> list[str]:
        for number, (base, student) in enumerate(pairs):
            write(tmp_path / f"{name}-base", base, f"b{number}")
            write(tmp_path / f"{name}-student", student, f"b{number}")
        return compare.gate(compare.compare(tmp_path / f"{name}-base", tmp_path / f"{name}-student"))

    assert reasons("same", ("+-" * 20, "+-" * 20)) == []
    assert reasons("better", ("-" * 20, "+" * 20)) == []
    assert reasons("little", ("+++++", "-----")) == []  # p = 1/16
    worse = reasons("worse", ("+" * 20, "+" * 12 + "-" * 8))
    assert [reason.partition(":")[0] for reason in worse] == ["over all questions", "b0"]
    assert "60.0 after 100.0 % (8 questions lost, 0 won, McNemar p 0.0078)" in worse[0]
    # lost on one, won on another: not worse over all, but on the one
    hidden = reasons("hidden", ("+" * 20, "-" * 12 + "+" * 8), ("-" * 20, "+" * 12 + "-" * 8))
    assert [reason.partition(":")[0] for reason in hidden] == ["b0"]
    # one of five at p = 0.03 is what chance brings (Holm)
    chance = reasons("chance", ("+" * 20, "-" * 6 + "+" * 14), *[("+-" * 9, "+-" * 9)] * 4, ("-" * 9, "++" + "-" * 7))
    assert chance == []


def test_a_targets_folder(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    (run / "eval" / "sft").mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: demo")
    (run / "eval" / "sft" / "report.json").write_text("{}")
    assert predictions.folder_of(str(run)) == run / "eval" / "sft"
    assert predictions.folder_of(f"{run}/ppo") == run / "eval" / "ppo"
    assert predictions.folder_of("org/name") == Path("evaluations/org-name")
    assert predictions.folder_of("http://127.0.0.1:8000/v1") == Path("evaluations/http---127.0.0.1-8000-v1")
    assert predictions.folder_of(str(write(tmp_path / "x", "+"))) == tmp_path / "x"
