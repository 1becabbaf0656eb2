"""`lite-huatuo eval` and `compare`: a run's stages, an exported model and an endpoint, on a file of questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lite_huatuo import jsonl, manifest
from lite_huatuo import recipe as recipes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from tests import tiny
from tests.scripted_server import ScriptedServer

ROWS = [
    {"id": f"q{n}", "question": f"Sign {n}?", "options": {"A": "rest", "B": "salt", "C": "light"}, "answer_idx": "B"}
    for n in range(8)
]


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a benchmark with a file of eight questions, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    jsonl.write(tmp_path / "mine.jsonl", ROWS)
    return "medqa=mine.jsonl"


@pytest.fixture(scope="module")
def student(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose two stages are adapters of random numbers; nothing was trained."""
    tree = tiny.toy_recipe(toy)
    tree["eval"] = {"batch_size": 4, "max_reply_length": 12, "benchmarks": ["medqa=mine.jsonl"]}
    recipe = recipes.check(tree, "student")
    run = RunDir.create(tmp_path_factory.mktemp("students") / "run", recipe.model_dump())
    shared = SharedBase.fresh(backends.load(**recipe.base.model_dump()), "actor", **recipe.adapter.model_dump())
    for stage in ("sft", "ppo"):
        with torch.no_grad():
            for parameter in shared.parameters("actor").values():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        run.final(stage).parent.mkdir(parents=True)
        shared.save("actor", run.final(stage))
        manifest.seal(run.final(stage).parent)
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in jsonl.iter_rows(path)]


def test_a_runs_stages_are_evaluated_beside_each_other_and_compared(run, student: RunDir, questions: str) -> None:
    replies = {}
    for target, stage in ((f"{student.path}/base", "base"), (f"{student.path}/sft", "sft"), (str(student.path), "ppo")):
        words = ["--benchmark", questions] if stage != "ppo" else []  # the recipe names the same one
        code, out, err = run("eval", target, *words)
        assert code == 0, err
        folder = student.path / "eval" / stage
        assert f"every reply with its reading: {folder}" in out
        replies[stage] = [row["reply"] for row in lines(folder / "medqa.jsonl")]
        assert len(replies[stage]) == 8
    assert len({str(texts) for texts in replies.values()}) == 3, "each stage writes by itself"
    assert [line.split()[1] for line in out.split("\n") if line.startswith("│ ") and "paper" not in line][-3:] == [
        *replies
    ]
    assert "72.6" in out, "the paper's figures stand beside"
    code, out, _ = run("compare", f"{student.path}/sft", f"{student.path}/ppo", "--json")
    assert code == 0
    report = json.loads(out)["comparisons"][0]
    assert report["overall"]["n"] == 8
    assert report["notes"] == []


def test_train_evaluates_base_and_student_in_the_end(run, student: RunDir, questions: str, tmp_path: Path) -> None:
    """With both stages done there is nothing to train; what `eval` would do is done for base, SFT and PPO."""
    folder = tmp_path / "run"
    shutil.copytree(student.path, folder, ignore=shutil.ignore_patterns("medqa*", "report.json"))
    (folder / "eval" / "report.json").write_text("{}")
    recipe = folder / "recipe.yaml"
    code, out, err = run("train", "--recipe", recipe, "--run", folder, "--resume", "--evaluate")
    assert code == 0, err
    for stage in ("base", "sft", "ppo"):
        assert len(lines(folder / "eval" / stage / "medqa.jsonl")) == 8
        assert str(folder / "eval" / stage) in out
    code, _, err = run("train", "--recipe", "demo", "--run", tmp_path / "other", "--evaluate")
    assert code == 2
    assert "--evaluate: the recipe's eval.benchmarks is empty" in err


def test_a_second_call_asks_nothing_and_other_settings_are_refused(run, student: RunDir, questions: str) -> None:
    words = ("eval", f"{student.path}/base", "--benchmark", questions, "--to", "kept", "--max-tokens", 6)
    assert run(*words, "--limit", 3)[0] == 0
    assert len(lines(Path("kept/medqa.jsonl"))) == 3
    first = json.loads(run(*words, "--json")[1])
    before = Path("kept/medqa.jsonl").stat().st_mtime_ns
    assert json.loads(run(*words, "--json")[1]) == first
    assert Path("kept/medqa.jsonl").stat().st_mtime_ns == before
    assert first["benchmarks"]["medqa"]["questions"] == 8
    code, _, err = run(*words, "--temperature", 0.5)
    assert code == 1
    assert "temperature: 0.0 → 0.5" in err
    code, out, _ = run(*words, "--temperature", 0.5, "--seeds", 2, "--shuffle", "--overwrite", "--json")
    assert (code, json.loads(out)["benchmarks"]["medqa"]["replies"]) == (0, 16)


def test_a_stage_that_is_not_finished_is_told(run, toy: dict[str, str], questions: str, tmp_path: Path) -> None:
    RunDir.create(tmp_path / "new", recipes.check(tiny.toy_recipe(toy), "new").model_dump())
    code, _, err = run("eval", "new/ppo", "--benchmark", questions)
    assert (code, "new: ppo is not finished" in err) == (1, True)
    assert run("eval", "new/base", "--benchmark", questions, "--limit", 1, "--max-tokens", 4)[0] == 0


def test_a_models_folder_is_evaluated_as_its_run_would_be(
    run, toy: dict[str, str], student: RunDir, questions: str
) -> None:
    words = ("--benchmark", questions, "--max-tokens", 8, "--to")
    assert run("eval", toy["model"], *words, "model")[0] == 0
    settings = json.loads(Path("model/medqa.settings.json").read_text())
    assert settings["target.model"] == toy["model"]
    assert settings["target.weights"]
    code, _, err = run("eval", toy["model"], "--benchmark", questions, "--max-tokens", 500, "--to", "long")
    assert code == 1
    assert "do not fit in 512" in err


def test_an_endpoint_is_asked_once_and_odd_replies_count(run, questions: str) -> None:
    def reply(request: dict[str, Any]) -> str:
        return "The answer is B." if "Sign 7" not in request["messages"][0]["content"] else "A or B."

    def faults(request: dict[str, Any], attempt: int) -> str | None:
        odd = {"Sign 0": "length", "Sign 1": "empty", "Sign 2": "refusal"}
        return next((kind for sign, kind in odd.items() if sign in request["messages"][0]["content"]), None)

    with ScriptedServer(reply, faults=faults) as server:
        words = ("eval", server.url, "--set", "model=some/model", "--benchmark", questions, "--to", "served", "--json")
        code, out, err = run(*words)
        assert code == 0, err
        assert run(*words)[1] == out
        assert sum(server.calls.values()) == 8
        asked = server.requests[0]
        assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("some/model", 0.0, 1300)
        sampled = ("--temperature", 1.0, "--seeds", 2, "--limit", 2, "--overwrite")
        assert json.loads(run(*words, *sampled)[1])["benchmarks"]["medqa"]["replies"] == 4
    found = json.loads(out)["benchmarks"]["medqa"]
    assert (found["questions"], found["failed"], found["cut"]["count"], found["empty"]["count"]) == (8, 0, 1, 1)
    assert found["unread"]["count"] >= 3  # the empty one, the refusal, and "A or B."
    assert found["accuracy"] in (4 / 8, 5 / 8)  # what was cut may have been said before


def letters(folder: str) -> set[str]:
    return {row["reading"] for row in lines(Path(folder) / "medqa.jsonl")}


def test_what_one_student_said_never_stands_for_another(run, questions: str) -> None:
    """Another student under the same name, at another address or at the same one, whose replies the store holds."""

    def ask(to: str, *words: str) -> tuple[int, str]:
        code, _, err = run("eval", server.url, "--set", "model=m", "--benchmark", questions, "--to", to, *words)
        return code, err

    with ScriptedServer(lambda request: "The answer is A.") as server:
        assert ask("first")[0] == 0
        server.reply = lambda request: "The answer is C."  # a student trained on, behind the same address
        assert ask("retrained")[0] == 0
        assert ask("first", "--overwrite")[0] == 0
        assert sum(server.calls.values()) == 24
    assert letters("retrained") == letters("first") == {"C"}
    with ScriptedServer(lambda request: "The answer is B.") as server:
        code, err = ask("first")
        assert (code, sum(server.calls.values())) == (1, 0)
        assert "target.address: http://127.0.0.1:" in err
        assert f"→ {server.url}" in err
        assert ask("other")[0] == 0
        assert ask("first", "--overwrite")[0] == 0
        assert sum(server.calls.values()) == 16
        assert run("compare", "retrained", "other")[1].count("salt") == 0
    assert letters("other") == letters("first") == {"B"}


def test_paid_replies_that_a_kill_kept_from_the_folder_are_told_and_not_paid_again(run, questions: str) -> None:
    with ScriptedServer(lambda request: "The answer is B.") as server:
        words = ("eval", server.url, "--set", "model=m", "--benchmark", questions, "--to", "served")
        _, whole, err = run(*words)
        assert "request store" not in err
        kept = Path("served/medqa.jsonl")
        for rows in (3, 0):  # a kill between the store's commit and the folder's; one before the first of these
            kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:rows]))
            if not rows:
                kept.unlink()
            code, out, err = run(*words)
            assert (code, out) == (0, whole)
            assert f"{8 - rows} replies came from the request store requests.sqlite" in err
        assert sum(server.calls.values()) == 8


def test_what_an_endpoint_ended_goes_on_without_overwrite(run, questions: str) -> None:
    with ScriptedServer(lambda request: "B", faults=lambda request, attempt: "402" if ended else None) as server:
        words = ("eval", server.url, "--set", "model=m", "--benchmark", questions, "--to", "served", "--limit")
        ended = False
        assert run(*words, 2)[0] == 0
        ended = True
        code, _, err = run(*words, 4, "--overwrite")
        assert (code, "no credit; leave out --overwrite then" in err) == (1, True)
        assert "--overwrite" not in run(*words, 4)[2]


def test_other_ways_to_ask_the_same_model_are_refused(run, questions: str) -> None:
    with ScriptedServer(lambda request: "The answer is B.") as server:
        words = ("eval", server.url, "--set", "model=m", "--benchmark", questions, "--to", "served")
        assert run(*words)[0] == 0
        code, _, err = run(*words, "--set", "extra={thinking: true}")
    assert (code, "target.extra: None → {'thinking': True}" in err) == (1, True)


def test_a_wrong_address_is_told(run, questions: str) -> None:
    code, _, err = run("eval", "http://127.0.0.1:9/v1", "--set", "model=m", "--benchmark", questions)
    assert code == 1
    assert "nobody answers there" in err
    assert "Traceback" not in err


def test_compare_fails_below_and_warns(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl.write(tmp_path / "mine.jsonl", [{**ROWS[0], "id": f"q{n}", "question": f"Sign {n}?"} for n in range(12)])
    for name, letter in (("good", "B"), ("bad", "C")):
        with ScriptedServer(lambda request, letter=letter: f"Answer: {letter}") as server:
            words = ("--set", "model=m", "--store", f"{name}.sqlite", "--benchmark", "medqa=mine.jsonl", "--to", name)
            assert run("eval", server.url, *words)[0] == 0
    assert run("compare", "bad", "good", "--fail-below")[0] == 0
    code, out, err = run("compare", "good", "bad")
    assert code == 0
    assert "-100.0" in out
    assert "warning: bad is below good: over all questions" in err
    assert run("compare", "good", "bad", "--fail-below")[0] == 1
    code, _, err = run("compare", "good", "nothing/here")
    assert code == 1
    assert "run `lite-huatuo eval` on it first" in err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nowhere", "--benchmark", "medqq"], 1, "did you mean medqa"),
        (["nowhere", "--benchmark", "medqa=gone.jsonl"], 1, "gone.jsonl: no such file"),
        (["./nowhere", "--benchmark", "medqa=mine.jsonl"], 1, "no such folder"),
        (["nowhere"], 2, "give --benchmark NAME"),
        ([], 2, "give a RUN, MODEL or ADDRESS"),
        (["nowhere", "--benchmark", "medqa=mine.jsonl", "--seeds", "2"], 2, "greedy replies would all be the same"),
        (["nowhere", "--benchmark", "medqa=mine.jsonl", "--set", "a=b"], 2, "--set is for endpoints"),
        (["--list"], 0, ""),
    ],
)
def test_mistakes_are_told(run, questions: str, words: list[str], code: int, told: str) -> None:
    found, out, err = run("eval", *words)
    assert (found, "Traceback" in err) == (code, False)
    assert told in err
    assert code or "medqa " in out
