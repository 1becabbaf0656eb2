"""The `data` commands that ask no model: what they print, write and refuse."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data.profile import Usage
from lite_huatuo.data.store import Reply, Store
from tests.stage import data_jobs

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    """30 exam questions and one whose answer is no option."""
    rows = data_jobs.questions(30)
    return data_jobs.write(tmp_path / "raw.jsonl", [*rows, {**rows[0], "id": "bad", "answer_idx": "Z"}])


def test_import_tells_its_counts(run: Run, exams: Path, tmp_path: Path) -> None:
    code, out, _ = run("data", "import", exams, "--to", tmp_path / "exam.jsonl")
    assert code == 0
    assert out == "      31  rows\n       0  left out\n      30  kept\n       1  refused\n"
    (refused,) = data_jobs.rows(tmp_path / "exam.refused.jsonl")
    assert refused["reason"].startswith("answer is no option")
    words = ("data", "import", exams, "--to", tmp_path / "exam.jsonl", "--json", "--limit", 5)
    before = (tmp_path / "exam.jsonl").read_bytes()
    code, _, err = run(*words)
    assert (code, "exam.jsonl: already exists" in err, "--overwrite" in err) == (1, True, True)
    assert (tmp_path / "exam.jsonl").read_bytes() == before
    assert json.loads(run(*words, "--overwrite")[1]) == {"rows": 5, "left_out": 0, "kept": 5, "refused": 0}


def test_stats_show_the_funnel(run: Run, exams: Path, tmp_path: Path) -> None:
    exam, kept = tmp_path / "exam.jsonl", tmp_path / "kept.jsonl"
    assert run("data", "import", exams, "--to", exam)[0] == 0
    code, out, err = run("data", "filter", exam, "--to", kept, "--store", tmp_path / "store")  # rules only
    sides = f"       3  {tmp_path / 'kept.dropped.jsonl'}\n       0  {tmp_path / 'kept.failed.jsonl'}\n"
    assert (code, out) == (0, f"      27  {kept}\n{sides}       3    dropped: rules: short\n"), err
    code, out, _ = run("data", "stats", exam, kept)
    assert code == 0
    assert f"{exam}: 30 of 31 rows\n       1  refused: answer is no option\n          languages: en 20, zh 10\n" in out
    assert f"{kept}: 27 of 30 rows\n       3  dropped at rules: short\n" in out
    first, second = json.loads(run("data", "stats", exam, kept, "--json")[1])
    assert (first["in"], first["refused"]) == (31, {"answer is no option": 1})
    assert (second["rows"], second["in"], second["dropped"]) == (27, 30, {"rules": {"short": 3}})
    code, _, err = run("data", "stats", tmp_path / "none.jsonl")
    assert (code, err) == (1, f"error: {tmp_path / 'none.jsonl'}: no such file\n")


def test_decontaminate_reports_hits(run: Run, tmp_path: Path) -> None:
    problems = data_jobs.problems(12)
    data_jobs.write(tmp_path / "in.jsonl", problems)
    data_jobs.write(tmp_path / "en.jsonl", problems[:1])
    data_jobs.write(tmp_path / "zh.jsonl", problems[2:3])
    to = tmp_path / "clean.jsonl"
    words = ("data", "decontaminate", tmp_path / "in.jsonl", "--to", to, "--against", tmp_path / "en.jsonl")
    code, out, _ = run(*words, "--against", tmp_path / "zh.jsonl")
    assert code == 0
    dropped = data_jobs.rows(tmp_path / "clean.dropped.jsonl")
    assert {row["id"] for row in dropped} >= {problems[0]["id"], problems[2]["id"]}
    assert out.startswith("      12  rows\n")
    assert f"{len(dropped):>8,}  dropped: " in out
    assert out.endswith(f"{12 - len(dropped):>8,}  {to}\n")
    assert any(str(tmp_path / "zh.jsonl:1") in row["reason"] for row in dropped), "the hit is named"
    assert run(*words)[0] == 1, "never over what is there"
    report = json.loads(run(*words, "--json", "--overwrite")[1])
    assert report["rows"] == report["kept"] + report["dropped"] == 12


def test_decontaminate_counts_stock_phrases_by_the_papers_rule_only(run: Run, tmp_path: Path) -> None:
    phrase = "which of the following is the most appropriate next step in the management of this patient?"
    cases = [f"case{n} has finding{n}x and sign{n}y, {phrase}" for n in range(400)]
    data_jobs.write(tmp_path / "eval.jsonl", [{"id": f"e{n}", "question": case} for n, case in enumerate(cases)])
    data_jobs.write(tmp_path / "in.jsonl", [{"id": "p", "question": f"Another man with an odd rash, {phrase}"}])
    words = ("data", "decontaminate", tmp_path / "in.jsonl", "--against", tmp_path / "eval.jsonl", "--json", "--to")
    assert json.loads(run(*words, tmp_path / "spared.jsonl")[1])["dropped"] == 0
    assert json.loads(run(*words, tmp_path / "counted.jsonl", "--paper-rule")[1])["dropped"] == 1


def test_decontaminate_looks_at_the_exam_question_of_an_open_one(run: Run, tmp_path: Path) -> None:
    exam = "A potter with blue gums, wrist drop and colic of three weeks comes to us; what has poisoned the potter?"
    data_jobs.write(tmp_path / "eval.jsonl", [{"id": "e", "question": exam}])
    data_jobs.write(tmp_path / "kept.jsonl", [{"id": "p", "question": exam}])
    data_jobs.write(tmp_path / "in.jsonl", [{"id": "p", "question": "Which metal harms gums and nerves of glaziers?"}])
    words = ("data", "decontaminate", tmp_path / "in.jsonl", "--against", tmp_path / "eval.jsonl", "--json", "--to")
    assert json.loads(run(*words, tmp_path / "open.jsonl")[1])["dropped"] == 0
    assert json.loads(run(*words, tmp_path / "both.jsonl", "--exams", tmp_path / "kept.jsonl")[1])["dropped"] == 1


def test_mix_prints_what_it_drew(run: Run, tmp_path: Path) -> None:
    source = data_jobs.write(tmp_path / "problems.jsonl", data_jobs.problems(40))
    folder = tmp_path / "mix"
    words = ("data", "mix", folder, "--search", source, "--rl", source, "--count", "search=10", "--count", "rl=20")
    code, out, err = run(*words)
    assert code == 0, err
    assert out == (
        f"      10  {folder / 'search.jsonl'}  (search 10)\n      20  {folder / 'rl.jsonl'}  (rl 20)\n"
        f"          {folder / 'manifest.json'}\n"
    )
    ids = [{row["id"] for row in data_jobs.rows(folder / name)} for name in ("search.jsonl", "rl.jsonl")]
    assert [len(one) for one in ids] == [10, 20]
    assert not ids[0] & ids[1]
    again = json.loads(run(*words, "--json", "--overwrite")[1])
    assert again == json.loads((folder / "manifest.json").read_text())
    assert run("data", "mix", folder)[0] == 2
    assert run("data", "mix", folder, "--rl", source, "--count", "rl:5")[0] == 2


def test_mix_writes_over_nothing_unasked(run: Run, tmp_path: Path) -> None:
    source = data_jobs.write(tmp_path / "rl.jsonl", data_jobs.problems(40))
    code, _, err = run("data", "mix", tmp_path, "--rl", source, "--count", "rl=20", "--overwrite")
    assert (code, "rl.jsonl: is the input" in err) == (1, True)
    mine = data_jobs.write(tmp_path / "mix" / "sft.jsonl", [{"mine": 1}])  # an output that this mix has no rows for
    words = ("data", "mix", tmp_path / "mix", "--rl", source, "--count", "rl=20")
    code, _, err = run(*words)
    assert (code, "sft.jsonl: already exists" in err) == (1, True)
    assert data_jobs.rows(mine) == [{"mine": 1}]
    assert run(*words, "--overwrite")[0] == 0
    assert not mine.exists(), "of another mix"
    assert len(data_jobs.rows(tmp_path / "mix" / "rl.jsonl")) == 20
    assert len(data_jobs.rows(source)) == 40


NOBODY = "name: x\nmodel: m\nbase_url: http://127.0.0.1:9/v1\nkey_env: null\nprices: {input: 0.0, output: 0.0}\n"
JOBS = {  # a command that writes x.jsonl, and the side files that it writes
    "import": ("raw.jsonl", ["refused"]),
    "decontaminate": ("raw.jsonl --against other.jsonl", ["dropped"]),
    "filter": ("raw.jsonl", ["dropped", "failed"]),
    "reformat": ("raw.jsonl --teacher nobody.yaml", ["dropped", "failed"]),
    "search": ("problems.jsonl --teacher nobody.yaml", ["sft", "failed"]),
    "merge": ("part.jsonl --like problems.jsonl", ["failed", "sft"]),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what those commands read, in which the test stands."""
    monkeypatch.chdir(tmp_path)
    data_jobs.write(tmp_path / "raw.jsonl", data_jobs.questions(30))
    data_jobs.write(tmp_path / "other.jsonl", data_jobs.questions(2))
    data_jobs.write(tmp_path / "problems.jsonl", data_jobs.problems(3))
    data_jobs.write(tmp_path / "part.jsonl", data_jobs.problems(3))
    for side in ("failed", "sft"):
        data_jobs.write(tmp_path / f"part.{side}.jsonl", [])
    (tmp_path / "nobody.yaml").write_text(NOBODY)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(("name", "side"), [(name, side) for name in JOBS for side in ("", *JOBS[name][1])])
def test_nothing_is_written_over_unasked(run: Run, place: Path, name: str, side: str) -> None:
    mine = data_jobs.write(place / (f"x.{side}.jsonl" if side else "x.jsonl"), [{"mine": 1}])
    before = contents(place)
    words = ("data", name, *JOBS[name][0].split(), "--to", "x.jsonl")
    code, _, err = run(*words)
    assert (code, f"error: {mine.name}: already exists" in err, "--overwrite" in err) == (1, True, True), err
    assert contents(place) == before
    if name not in ("reformat", "search"):  # these ask somebody
        code, _, err = run(*words, "--overwrite")
        assert code == 0, err
        assert mine.read_bytes() != before[mine.name]


@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name in JOBS for side in ("", *JOBS[name][1]) if name != "merge" or not side]
)
def test_no_command_writes_over_its_input(run: Run, place: Path, name: str, side: str) -> None:
    """Neither by its output nor by a side file; what is told to write over what is there is the output."""
    source, *others = JOBS[name][0].split()
    (place / source).rename(place / (taken := f"x.{side}.jsonl" if side else "x.jsonl"))
    if name == "merge" and not side:
        for each in ("failed", "sft"):
            (place / f"part.{each}.jsonl").rename(place / f"x.{each}.jsonl")
    before = contents(place)
    code, _, err = run("data", name, taken, *others, "--to", "x.jsonl", "--overwrite")
    assert (code, f"error: {taken}: is the input, and would be lost" in err) == (1, True), err
    assert contents(place) == before


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("decontaminate raw.jsonl --against other.jsonl --to other.jsonl", "other.jsonl"),
        ("decontaminate raw.jsonl --against x.dropped.jsonl --to x.jsonl", "x.dropped.jsonl"),
        ("merge part.jsonl --like problems.jsonl --to problems.jsonl", "problems.jsonl"),
        ("merge part.jsonl --like x.sft.jsonl --to x.jsonl", "x.sft.jsonl"),
        ("merge part.jsonl x.sft.jsonl --like problems.jsonl --to x.jsonl", "x.sft.jsonl"),
        ("merge part.jsonl x.jsonl --like problems.jsonl --to x.jsonl", "x.jsonl"),
        ("import ~/raw.jsonl --to raw.jsonl", "raw.jsonl"),
        ("import link.jsonl --to raw.jsonl", "raw.jsonl"),
    ],
)
def test_no_other_source_is_written_over_either(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, words: str, taken: str
) -> None:
    monkeypatch.setenv("HOME", str(place))
    (place / "link.jsonl").symlink_to("raw.jsonl")
    if not (place / taken).exists():
        data_jobs.write(place / taken, data_jobs.problems(2))
    before = contents(place)
    code, _, err = run("data", *words.split(), "--overwrite")
    assert (code, f"error: {taken}: is the input, and would be lost" in err) == (1, True), err
    assert contents(place) == before


@pytest.mark.parametrize("placed", [1, 2, 3])
def test_a_job_that_was_killed_while_it_put_its_files_in_place_goes_on(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, placed: int
) -> None:
    words = ("data", "filter", "raw.jsonl", "--to", "x.jsonl")
    assert run(*words)[0] == 0
    whole = {name: data for name, data in contents(place).items() if name.startswith("x.")}
    for name in whole:
        (place / name).unlink()
    with monkeypatch.context() as patched:
        stops_at(patched, ["x.failed.jsonl", "x.dropped.jsonl", "x.jsonl", ".x.jsonl.state"][placed])
        assert run(*words)[0] != 0
    assert sum(name in contents(place) for name in whole) == placed
    assert run(*words)[0] == 0
    found = contents(place)
    assert {name: found[name] for name in whole} == whole
    assert not [name for name in found if name.startswith(".x.") and not name.endswith(".lock")]


def test_a_mix_that_was_killed_while_it_put_its_files_in_place_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = data_jobs.write(tmp_path / "problems.jsonl", data_jobs.problems(40))
    words = ("--search", source, "--rl", source, "--count", "search=10", "--count", "rl=20")
    assert run("data", "mix", tmp_path / "whole", *words)[0] == 0
    with monkeypatch.context() as patched:
        stops_at(patched, "rl.jsonl")
        assert run("data", "mix", tmp_path / "mix", *words)[0] != 0
    assert (tmp_path / "mix" / "search.jsonl").exists()
    assert run("data", "mix", tmp_path / "mix", *words)[0] == 0
    assert contents(tmp_path / "mix") == contents(tmp_path / "whole")


def stops_at(patched: pytest.MonkeyPatch, name: str) -> None:
    """Let the moment at which a file gets its place, or loses it, be that of a kill."""
    replace, unlink = os.replace, Path.unlink

    def to(source: Path, target: Path) -> None:
        if Path(target).name == name and Path(source).name.endswith((".part", ".new")):
            raise KeyboardInterrupt
        replace(source, target)

    def gone(path: Path, missing_ok: bool = False) -> None:
        if path.name == name and name.endswith(".state"):
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    patched.setattr(os, "replace", to)
    patched.setattr(Path, "unlink", gone)


def test_ledger_adds_up(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def fill() -> None:
        with Store(path) as store:
            for number in range(3):
                call = store.call(f"key {number}", f"step {number % 2}", "model-1", 1.0)
                store.sent(call)
                await store.finish(call, Reply("text", "stop", Usage(input=1000, output=50), 0.25))

    asyncio.run(fill())
    code, out, _ = run("data", "ledger", "--store", path)
    assert code == 0
    assert "| step 0 | model-1 | 2 | 0 | 0 | 2,000 | 0 | 100 | 0.5 |\n" in out
    assert out.endswith("\nin all: 3 calls, $0.7500\n")
    first: dict[str, Any] = json.loads(run("data", "ledger", "--store", path, "--json")[1])[0]
    assert (first["step"], first["calls"], first["dollars"]) == ("step 0", 2, 0.5)
    code, _, err = run("data", "ledger", "--store", tmp_path / "none")
    assert code == 1
    assert err.count("\n") == 1


def test_help_lists_the_steps_in_order(run: Run) -> None:
    code, out, _ = run("data", "--help")
    assert code == 0
    names = [line.split()[0] for line in out.split("Commands:\n")[1].strip().split("\n")]
    assert names == ["import", "filter", "reformat", "decontaminate", "search", "merge", "mix", "stats", "ledger"]
