"""`lite-huatuo verifier build`, from problems and replies, or from models on a scripted server."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import sources
from lite_huatuo.prompts.render import templates
from lite_huatuo.records import to_row
from lite_huatuo.run_dir import RunDir
from lite_huatuo.verifier import build
from tests import scripted_teacher
from tests.scripted_server import ScriptedServer
from tests.tiny import CURES


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    jsonl.write(path, [to_row(problem) for problem in sources.load_problems("shipped:problems_en")[:30]])
    return path


@pytest.fixture
def replies(problems: Path, tmp_path: Path) -> Path:
    path = tmp_path / "replies.jsonl"
    rows = [row for _, row in jsonl.iter_rows(problems)]
    says = [row["ground_truth"] if n % 2 else "something else" for n, row in enumerate(rows)]
    jsonl.write(path, [{"id": row["id"], "reply": f"It is {said}."} for row, said in zip(rows, says, strict=True)])
    return path


def profile(path: Path, server: ScriptedServer, name: str) -> Path:
    path.write_text(f"name: {name}\nmodel: {name}\nbase_url: {server.url}\nprices: {{input: 1.0, output: 1.0}}\n")
    return path


def test_replies_are_judged_and_written_with_a_manifest(run, problems: Path, replies: Path, tmp_path: Path) -> None:
    words = ("verifier", "build", problems, "--to", tmp_path / "pairs", "--replies", replies, "--judge", "exact")
    code, out, err = run(*words)
    assert code == 0, err
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    rows = [row for _, row in jsonl.iter_rows(tmp_path / "pairs" / "train.jsonl")]
    assert len(rows) == manifest["splits"]["train"]["pairs"] > 30
    assert f"{len(rows):,}  {tmp_path / 'pairs' / 'train.jsonl'}" in out
    code, _, err = run(*words)
    assert code == 1
    assert f"{tmp_path / 'pairs' / 'train.jsonl'}: already exists; give another name, or --overwrite" in err
    assert run(*words, "--overwrite")[0] == 0
    code, out, err = run(
        "verifier", "check", "--kind", "exact", "--no-suite", "--judged", tmp_path / "pairs" / "test.jsonl"
    )
    assert code == 0, err


@pytest.mark.parametrize("name", build.FILES)
def test_nothing_is_written_over_unasked(run, problems: Path, replies: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "data" / name
    mine.parent.mkdir()
    mine.write_text('{"mine": 1}\n')
    words = ("verifier", "build", problems, "--to", mine.parent, "--judge", "exact")
    code, _, err = run(*words, "--replies", replies)
    assert (code, f"error: {mine}: already exists" in err) == (1, True), err
    assert mine.read_text() == '{"mine": 1}\n'
    code, _, err = run(*words, "--replies", mine, "--overwrite")
    assert (code, f"error: {mine}: is the input, and would be lost" in err) == (1, True), err
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert run(*words, "--replies", replies, "--overwrite")[0] == 0
    assert '"mine"' not in mine.read_text()


@pytest.mark.parametrize("placed", [0, 1, 2])
def test_a_build_that_was_killed_while_it_put_its_files_in_place_goes_on(
    run, problems: Path, replies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: int
) -> None:
    words = ("verifier", "build", problems, "--replies", replies, "--judge", "exact", "--to")
    assert run(*words, tmp_path / "whole")[0] == 0
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target == tmp_path / "pairs" / build.FILES[placed]:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        assert run(*words, tmp_path / "pairs")[0] == 130
    assert [(tmp_path / "pairs" / name).exists() for name in build.FILES] == [n < placed for n in range(3)]
    code, _, err = run(*words, tmp_path / "pairs")
    assert code == 0, err
    made = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("pairs", "whole")]
    assert made[0] == made[1]


def test_wrong_options_of_the_exam_are_used_in_attacks(run, problems: Path, replies: Path, tmp_path: Path) -> None:
    rows = [row for _, row in jsonl.iter_rows(problems)]
    options = [{"A": row["ground_truth"], "B": f"Rival {n}a", "C": f"Rival {n}b"} for n, row in enumerate(rows)]
    exams = tmp_path / "exams.jsonl"
    jsonl.write(
        exams,
        [
            {"id": row["id"], "question": "Which?", "options": each, "answer_idx": "A", "answer": each["A"]}
            for row, each in zip(rows, options, strict=True)
        ],
    )
    words = ("--replies", replies, "--judge", "exact", "--exams", exams, "--attacks", 20)
    assert run("verifier", "build", problems, "--to", tmp_path / "pairs", *words)[0] == 0
    made = [row for _, row in jsonl.iter_rows(tmp_path / "pairs" / "train.jsonl") if row["origin"] == "attack"]
    numbers = {row["id"]: n for n, row in enumerate(rows)}
    named = [(row["problem"], found) for row in made for found in re.findall(r"(?i)rival (\d+)", row["final_response"])]
    assert len(named) > 10
    assert all(numbers[problem] == int(number) for problem, number in named)


def test_a_model_is_sampled_and_another_judges_and_a_rerun_asks_nothing(run, problems: Path, tmp_path: Path) -> None:
    opening = templates("en")["judge_answer"].partition("${")[0]
    truths = {row["question"]: row["ground_truth"] for _, row in jsonl.iter_rows(problems)}

    def reply(request: dict[str, Any]) -> str:
        content = request["messages"][0]["content"]
        if content.startswith(opening):
            return scripted_teacher.reply(request)
        return f"I think of {truths[content]}." if request["temperature"] < 0.5 else "I do not know."

    with ScriptedServer(reply) as server:
        words = [
            "verifier", "build", problems, "--to", tmp_path / "pairs", "--store", tmp_path / "s.sqlite",
            "--sample", profile(tmp_path / "student.yaml", server, "student"),
            "--judge", profile(tmp_path / "judge.yaml", server, "judge"),
            "--temperature", "0.2", "--temperature", "1.0",
        ]  # fmt: skip
        code, _, err = run(*words)
        assert code == 0, err
        assert len(server.requests) == 120
        first = (tmp_path / "pairs" / "train.jsonl").read_text()
        assert run(*words, "--overwrite")[0] == 0
        assert len(server.requests) == 120
        assert (tmp_path / "pairs" / "train.jsonl").read_text() == first
    rows = [json.loads(line) for line in first.split("\n") if line]
    assert {(row["temperature"], row["label"]) for row in rows if row["origin"] == "reply"} == {
        (0.2, True),
        (1.0, False),
    }


def test_a_judge_that_talks_nonsense_stops_the_build(run, problems: Path, replies: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda request: "True or False?") as server:
        judge = profile(tmp_path / "judge.yaml", server, "judge")
        words = ("--replies", replies, "--judge", judge, "--store", tmp_path / "s.sqlite", "--to", tmp_path / "pairs")
        code, _, err = run("verifier", "build", problems, *words)
    assert code == 1
    assert "30 of 30 replies got no verdict" in err
    assert not (tmp_path / "pairs").exists()


def test_mistakes_are_told(run, problems: Path, tmp_path: Path) -> None:
    to = ("--to", tmp_path / "pairs", "--judge", "exact")
    code, _, err = run("verifier", "build", problems, *to)
    assert (code, "nothing to judge" in err) == (2, True)
    empty = tmp_path / "other.jsonl"
    jsonl.write(empty, [{"id": "nobody", "reply": "x"}])
    code, _, err = run("verifier", "build", problems, *to, "--replies", empty)
    assert (code, "no reply can be judged (1 no such problem)" in err) == (1, True)


def test_a_runs_student_is_asked(run, toy: dict[str, str], toy_run: RunDir, tmp_path: Path) -> None:
    """At each temperature as often as asked, greedy once; the same seed gives the same pairs."""
    words = ("verifier", "build", toy["problems"], "--judge", "exact", "--run", toy_run.path, "--limit", 12)
    words = (*words, "--samples", 2, "--temperature", 0, "--temperature", 2.0, "--attacks", 0, "--test-share", 0)
    made = []
    for name in ("once", "again"):
        code, _, err = run(*words, "--to", tmp_path / name)
        assert code == 0, err
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["runs"] == [str(toy_run.path)]
        assert manifest["replies"]["given"] + sum(manifest["skipped"].values()) == 12 * 3
        made.append((tmp_path / name / "train.jsonl").read_text())
    assert made[0] == made[1]
    rows = [json.loads(line) for line in made[0].split("\n")[:-1]]
    asked = [row for row in rows if "temperature" in row]  # not in those that no student said
    assert asked
    assert {row["temperature"] for row in asked} <= {0.0, 2.0}
    assert any(row["final_response"] in CURES for row in asked)  # what the toy student was taught to say
