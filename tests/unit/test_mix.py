"""Mix: the counts asked for, the same draw for a seed, no problem in two places, and a manifest that is true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import sources
from lite_huatuo.data.mix import PAPER, closed_problem, mix
from lite_huatuo.errors import RecordError
from lite_huatuo.records import ExamQuestion


def problem(n: int, name: str = "p", **changes: Any) -> dict[str, Any]:
    return {"id": f"{name}{n}", "question": f"Open question {name} {n}?", "ground_truth": f"truth {n}", **changes}


def example(n: int, name: str = "p") -> dict[str, Any]:
    return {**problem(n, name), "complex_cot": "Hmm.", "response": "So.", "provenance": {"origin": "searched"}}


def exam(n: int, name: str = "x") -> dict[str, Any]:
    return {"id": f"{name}{n}", "question": f"Closed {n}?", "options": {"A": "one", "B": f"two {n}"}, "answer_idx": "B"}


@pytest.fixture
def write(tmp_path: Path):
    def to(name: str, written: list[dict[str, Any]]) -> str:
        jsonl.write(tmp_path / name, written)
        return str(tmp_path / name)

    return to


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [row for _, row in jsonl.iter_rows(folder / f"{name}.jsonl")]


def ids(folder: Path, name: str) -> set[str]:
    return {row["id"] for row in rows(folder, name)}


def test_the_papers_composition_is_the_default() -> None:
    assert PAPER == {"search": 20_000, "rl": 20_000, "closed": 4_000, "general": 5_000}


def test_search_and_rl_share_no_problem_by_id_or_words(write, tmp_path: Path) -> None:
    pool = [problem(n) for n in range(40)]
    twins = [problem(n, id=f"twin{n}", question=f"OPEN question, p {n} ?") for n in range(20)]  # other ids, same words
    same_id = [problem(n, question=f"Quite another {n}?") for n in range(20, 30)]
    source = write("pool.jsonl", pool)
    mix(
        tmp_path / "out",
        {"search": [source], "rl": [source, write("more.jsonl", twins + same_id)]},
        counts={"search": 25, "rl": 60},
    )
    search, rl = rows(tmp_path / "out", "search"), rows(tmp_path / "out", "rl")
    words = lambda row: "".join(c for c in row["question"].lower() if c.isalnum())  # noqa: E731
    assert len(search) + len(rl) == 40  # every problem once, whatever its copies
    assert not {row["id"] for row in search} & {row["id"] for row in rl}
    assert not set(map(words, search)) & set(map(words, rl))


def test_a_pool_too_small_is_shared_in_the_ratio_asked(write, tmp_path: Path) -> None:
    source = write("pool.jsonl", [problem(n) for n in range(30)])
    told = mix(tmp_path / "out", {"search": [source], "rl": [source]}, counts={"search": 200, "rl": 100})
    assert (len(rows(tmp_path / "out", "search")), len(rows(tmp_path / "out", "rl"))) == (20, 10)
    assert told["kinds"]["search"] == {"asked": 200, "rows": 30, "drawn": 20}


def test_a_seed_draws_the_same_whatever_the_order_of_rows_and_another_seed_another(write, tmp_path: Path) -> None:
    pool = [problem(n) for n in range(60)]
    inputs = [write("one.jsonl", pool), write("two.jsonl", pool[::-1])]
    counts = {"search": 10, "rl": 10}
    for name, source, seed in (("a", 0, 1), ("b", 1, 1), ("c", 0, 2)):
        mix(tmp_path / name, {"search": [inputs[source]], "rl": [inputs[source]]}, counts=counts, seed=seed)
    for output in ("search.jsonl", "rl.jsonl"):
        first, again, other = ((tmp_path / name / output).read_bytes() for name in "abc")
        assert first == again != other


def test_searched_examples_go_to_sft_and_keep_their_problems_from_rl(write, tmp_path: Path) -> None:
    searched = write("sft.jsonl", [example(n) for n in range(20)])
    pool = write("pool.jsonl", [problem(n) for n in range(50)])
    mix(tmp_path / "out", {"search": [searched], "rl": [pool]}, counts={"search": 20, "rl": 100})
    assert ids(tmp_path / "out", "sft") == {f"p{n}" for n in range(20)}
    assert ids(tmp_path / "out", "rl") == {f"p{n}" for n in range(20, 50)}
    assert not (tmp_path / "out" / "search.jsonl").exists()
    assert rows(tmp_path / "out", "sft")[0]["provenance"] == {"origin": "searched", "kind": "search"}
    with pytest.raises(RecordError, match="cannot be an RL problem"):
        mix(tmp_path / "out", {"rl": [searched]})


def test_closed_and_general_questions_go_where_their_form_belongs(write, tmp_path: Path) -> None:
    inputs = {
        "search": [write("pool.jsonl", [problem(n) for n in range(10)])],
        "closed": [
            write("exam.jsonl", [exam(n) for n in range(8)]),
            write("c.jsonl", [example(n, "c") for n in range(5)]),
        ],
        "general": [write("general.jsonl", [problem(n, "g") for n in range(7)])],
    }
    told = mix(tmp_path / "out", inputs, counts={"search": 4, "closed": 13, "general": 6})
    out = tmp_path / "out"
    assert ids(out, "sft") == {f"c{n}" for n in range(5)}
    kinds = {name: output["kinds"] for name, output in told["outputs"].items()}
    assert kinds == {
        "sft.jsonl": {"closed": 5},
        "search.jsonl": {"search": 4, "closed": 4, "general": 3},
        "rl.jsonl": {"closed": 4, "general": 3},
    }
    closed = [row for row in rows(out, "search") + rows(out, "rl") if row["id"].startswith("x")]
    assert len(closed) == 8
    assert all("\nA. one\nB. two" in row["question"] and row["ground_truth"].startswith("B. two") for row in closed)
    assert len(sources.load_problems(str(out / "search.jsonl"))) == 11  # the next step reads it


def test_an_exam_question_and_the_problem_made_of_it_are_one(write, tmp_path: Path) -> None:
    inputs = {
        "search": [write("pool.jsonl", [problem(n, "x") for n in range(5)])],
        "closed": [write("exam.jsonl", [exam(n) for n in range(8)])],
    }
    mix(tmp_path / "out", inputs, counts={"search": 5, "closed": 100})
    found = [row["id"] for name in ("search", "rl") for row in rows(tmp_path / "out", name)]
    assert sorted(found) == [f"x{n}" for n in range(8)]


def test_the_manifest_tells_counts_seed_and_hashes(write, tmp_path: Path) -> None:
    source = write("pool.jsonl", [problem(n) for n in range(10)])
    told = mix(
        tmp_path / "out", {"search": [source], "rl": ["shipped:problems_en"]}, counts={"search": 3, "rl": 4}, seed=7
    )
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8")) == told
    assert told["seed"] == 7
    assert told["inputs"]["search"] == [
        {"source": source, "sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest()}
    ]
    assert told["inputs"]["rl"] == [{"source": "shipped:problems_en", "sha256": None}]
    for name, output in told["outputs"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert (output["sha256"], output["rows"]) == (hashlib.sha256(content).hexdigest(), content.count(b"\n"))


def test_a_new_mix_leaves_nothing_of_the_old_one(write, tmp_path: Path) -> None:
    source = write("pool.jsonl", [problem(n) for n in range(10)])
    mix(tmp_path / "out", {"search": [source], "rl": [source]})
    mix(tmp_path / "out", {"rl": [source]})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "rl.jsonl"]


def test_an_unknown_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="serach: no kind of training data; kinds are search, rl, closed, general"):
        mix(tmp_path, {"serach": []})


def test_a_closed_problem_is_multiple_choice_in_its_language() -> None:
    made = closed_problem(
        ExamQuestion("e", "哪些？", {"A": "甲", "B": "乙", "C": "丙"}, "AC", "甲; 丙", "zh", "CMB", "背景")
    )
    assert made.question == "背景\n\n哪些？\nA. 甲\nB. 乙\nC. 丙\n\n请写出正确选项的字母和内容。"
    assert (made.ground_truth, made.language, made.source) == ("A. 甲; C. 丙", "zh", "CMB")
