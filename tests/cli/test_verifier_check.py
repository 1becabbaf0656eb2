"""`lite-huatuo verifier check`: the report, the bar, a second verifier, and mistakes told in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.verifier import suite
from tests import scripted_teacher
from tests.scripted_server import ScriptedServer

ROWS = [
    {"id": "a", "question": "Which?", "response": "It is salt.", "reference": "salt", "label": True},
    {"id": "b", "question": "Which?", "response": "It is water.", "reference": "salt", "label": False},
    {"id": "c", "question": "Which?", "response": "It is not salt.", "reference": "salt", "label": False},
    {"id": "d", "question": "Which?", "response": "Sodium chloride, as on the table.", "reference": "salt",
     "label": True},
]  # fmt: skip


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    jsonl.write(tmp_path / "judged.jsonl", ROWS)
    return tmp_path / "judged.jsonl"


def test_the_suite_and_judged_files_are_reported(run, judged: Path) -> None:
    code, out, _ = run("verifier", "check", "--kind", "exact", "--judged", judged)
    assert code == 0
    assert "exact on suite" in out
    assert f"exact on {judged}" in out
    assert "0.750 [0.301, 0.954] (3/4)" in out
    assert all(f"false positives: {case.attack} " in out for case in suite.load() if not case.label)


def test_json_holds_the_same_numbers_and_the_verdicts_file_each_verdict(run, judged: Path, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    words = ["verifier", "check", "--kind", "exact", "--no-suite", "--judged", judged, "--json", "--verdicts", path]
    code, out, _ = run(*words)
    report = json.loads(out)
    assert code == 0
    assert report["verifier"] == "exact"
    assert report["sources"][str(judged)]["accuracy"]["hits"] == 3
    rows = [row for _, row in jsonl.iter_rows(path)]
    assert [(row["id"], row["label"], row["correct"]) for row in rows] == [
        ("a", True, True), ("b", False, False), ("c", False, False), ("d", True, False),
    ]  # fmt: skip
    assert rows[2]["raw"] == "negated"


def test_a_verifier_below_the_bar_is_reported_and_refused(run, judged: Path) -> None:
    words = ("verifier", "check", "--kind", "exact", "--no-suite", "--judged", judged, "--accept-at")
    code, out, err = run(*words, "0.8")
    assert code == 1
    assert "accuracy" in out
    assert f"the verifier exact is not accepted on {judged}: its accuracy is 0.750" in err
    assert run(*words, "0.7")[0] == 0


def test_a_recipes_verifier_is_held_to_its_own_bar(run, judged: Path, short_recipe, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(short_recipe.model_dump()))
    words = ("verifier", "check", "--recipe", path, "--no-suite", "--judged", judged)
    code, _, err = run(*words)
    assert code == 1
    assert "accept_at is 0.9" in err
    assert run(*words, "--set", "verifier.accept_at=0.75")[0] == 0


def test_two_verifiers_are_compared(run, judged: Path, tmp_path: Path) -> None:
    profile = tmp_path / "judge.yaml"
    with ScriptedServer(scripted_teacher.reply) as server:
        profile.write_text(f"name: judge\nmodel: m\nbase_url: {server.url}\nprices: {{input: 100.0, output: 100.0}}\n")
        words = [
            "--against",
            "api",
            "--against-set",
            f"profile={profile}",
            "--against-set",
            f"store={tmp_path}/s.sqlite",
        ]
        base = ["verifier", "check", "--kind", "exact", "--no-suite", "--judged", judged, "--json"]
        code, out, err = run(*base, *words)
        assert code == 0, err
        second = json.loads(out)["against"]
        assert second["verifier"] == "api (judge)"
        agreed = second["agreement"][str(judged)]
        # the scripted judge looks for the word: it is fooled by "not salt"
        assert (agreed["agreement"]["hits"], agreed["only_first_right"], agreed["only_second_right"]) == (3, 0, 1)
        assert second["sources"][str(judged)]["dollars_per_1000"] > 0
        assert len(server.requests) == 4
        again = json.loads(run(*base, *words)[1])["against"]
    assert again["sources"][str(judged)]["dollars_per_1000"] is None
    assert again["agreement"] == second["agreement"]


def test_an_endpoint_that_is_gone_makes_failures_and_no_verdicts(run, judged: Path, tmp_path: Path) -> None:
    profile = tmp_path / "judge.yaml"
    with ScriptedServer(lambda request: "not true") as server:
        profile.write_text(f"name: judge\nmodel: m\nbase_url: {server.url}\nprices: {{input: 0.0, output: 0.0}}\n")
        words = ["--set", f"profile={profile}", "--set", f"store={tmp_path}/s.sqlite", "--accept-at", "0.0"]
        code, out, err = run("verifier", "check", "--kind", "api", "--no-suite", "--judged", judged, *words)
    assert code == 1
    assert "4 of 4" in out
    assert "judged 0 of 4 cases" in err
    assert "no usable reply" in err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "give either --recipe or --kind"),
        (["--kind", "exact", "--recipe", "demo"], 2, "give either --recipe or --kind"),
        (["--kind", "exact", "--no-suite"], 2, "leaves nothing to judge"),
        (["--kind", "api"], 1, "verifier.profile: missing"),
        (["--kind", "exact", "--set", "treshold=1"], 1, "did you mean threshold?"),
        (["--kind", "exact", "--judged", "/no/such.jsonl"], 1, "/no/such.jsonl: no such file"),
        (["--kind", "adapter", "--set", "adapter=/no/folder"], 1, "no adapter here"),
        (["--recipe", "qwen7"], 1, "did you mean qwen7b"),
    ],
)
def test_mistakes_are_told(run, words: list[str], code: int, told: str) -> None:
    found, out, err = run("verifier", "check", *words)
    assert (found, out) == (code, "")
    assert told in err
