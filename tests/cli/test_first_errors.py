"""What a newcomer does wrong first, in every command: one line says what, where and what to do, with the name that may
have been meant. Here stand the cases that no other file of these tests has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lite_huatuo import jsonl, lock
from lite_huatuo.recipe import Recipe
from lite_huatuo.report import page
from lite_huatuo.run_dir import RunDir

Run = Callable[..., tuple[int, str, str]]
EXAM = {"id": "e", "question": "Which sign?", "options": {"A": "rash", "B": "cough"}, "answer_idx": "A"}
PROFILE = "name: x\nmodel: m\nbase_url: http://127.0.0.1:9/v1\nkey_env: {}\nprices: {{input: 0.0, output: 0.0}}\n"
NO_NETWORK = "http://127.0.0.1:9"  # nobody listens there

CASES: list[tuple[str, int, str]] = [
    ("doctr", 2, "No such command 'doctr' (did you mean doctor?)"),
    ("zzz", 2, "No such command 'zzz'."),
    ("data imprt", 2, "Did you mean 'import'?"),
    ("data import exam.jsnl --to x.jsonl", 1, "exam.jsnl: not a data source"),
    ("data import exams.jsonl --to x.jsonl", 1, "exams.jsonl: no such file (did you mean exam.jsonl?)"),
    ("data import zzz.jsonl --to x.jsonl", 1, "zzz.jsonl: no such file in "),
    ("data import folder/xam.jsonl --to x.jsonl", 1, "did you mean folder/exam.jsonl?"),
    ("data import exam.jsonl --to exam.jsonl", 1, "exam.jsonl: is the input, and would be lost"),
    ("data import exam.jsonl --to problem.jsonl/x.jsonl", 1, "a part of this path is a file"),
    ("data import problem.jsonl --to x.jsonl", 0, "warning: every row was refused; the first, problem.jsonl:1: no"),
    ("data decontaminate problem.jsonl --against exam.jsonl --to problem.jsonl", 1, "is the input, and would be lost"),
    ("data mix problem.jsonl --rl problem.jsonl --count rl=1", 1, "problem.jsonl: is a file, and a folder is to be"),
    ("data mix m --rl problem.jsonl --count close=1", 2, "no such kind (did you mean closed?); there are search, rl"),
    ("data reformat exam.jsonl --to x.jsonl --teacher key.yaml", 1, "x: no key; set the environment variable"),
    ("data reformat exam.jsonl --to x.jsonl --teacher open.yaml --store folder", 1, "give another file with --store"),
    ("recipes check shrt.yaml", 1, "shrt.yaml: no such recipe or file (did you mean short.yaml?); there are demo, "),
    ("verifier check --kind exact --against exakt", 1, "exakt: no such recipe or file"),
    ("verifier build problem.jsonl --judge exact --run runs/done --to exam.jsonl", 1, "exam.jsonl: is a file"),
    ("verifier check --kind exact --verdicts folder", 1, "folder: is a folder, and a file is to be written there"),
    ("report runs/don", 1, "runs/don (did you mean runs/done?): no run here"),
    ("report done", 1, "done (did you mean runs/done?): no run here"),
    ("export runs/don --to x", 1, "runs/don (did you mean runs/done?): no run here"),
    ("compare runs/don runs/done", 1, "runs/don (did you mean runs/done?): no evaluation here; run `lite-huatuo eval`"),
    ("chat folder --once Why?", 1, "folder: neither a run (no recipe.yaml) nor a model (no config.json)"),
    ("chat problem.jsonl --once Why?", 1, "error: problem.jsonl: is a file; give a model's folder"),
    ("chat done --once Why?", 1, "error: done: no such folder; did you mean runs/done?"),
    ("chat runs/don --once Why?", 1, "error: runs/don: cannot be loaded: no such folder (did you mean runs/done?)"),
    ("chat runs/done --set model=m --once Why?", 1, "--set: is for endpoints, which runs/done is not"),
    ("eval folder --benchmark medqa=exam.jsonl", 1, "folder: neither a run (no recipe.yaml) nor a model"),
    ("train --recipe short.yaml --run problem.jsonl", 1, "problem.jsonl: is a file; choose another folder with --run"),
    ("train --recipe short.yaml --run runs/new --resume", 1, "such as runs/demo, or begin one without --resume"),
    ("train --recipe short.yaml --run runs/new --stage ppo", 1, "or begin one without --resume or --stage ppo"),
    ("train --recipe short.yaml --run runs/done --stage ppo --overwrite", 2, "begins with the SFT that --overwrite"),
    ("train --recipe short.yaml --set data.sft=non.jsonl", 1, "data.sft: non.jsonl: no such file"),
    ("train --recipe short.yaml --run f --set ppo.rollout.engine=vllm", 1, "ppo.rollout.engine: vllm is not installed"),
    ("train --recipe short.yaml --set base.model=toy.gguf", 1, "toy.gguf: no such file (did you mean toy2.gguf?)"),
    ("train --recipe short.yaml --set base.model=org/none", 1, "the Hub cannot be asked (HF_HUB_OFFLINE is set)"),
    ("train --recipe short.yaml --run f --set base.attention=flash_attention_2", 1, "FlashAttention2"),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a newcomer has it: data, profiles, a recipe, a run that has only begun."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "folder").mkdir()
    jsonl.write(folder / "exam.jsonl", [EXAM])
    jsonl.write(folder / "folder" / "exam.jsonl", [EXAM])
    jsonl.write(folder / "problem.jsonl", [{"id": "p", "question": "Which?", "ground_truth": "rash"}])
    (folder / "key.yaml").write_text(PROFILE.format("A_KEY_THAT_NOBODY_SET"))
    (folder / "open.yaml").write_text(PROFILE.format("null"))
    (folder / "short.yaml").write_text(yaml.safe_dump(short_recipe.model_dump()))
    (folder / "toy2.gguf").touch()
    RunDir.create(folder / "runs" / "done", short_recipe.model_dump())
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test stands."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.mark.parametrize(("line", "code", "told"), CASES, ids=[case[0] for case in CASES])
def test_the_first_mistake_is_told(run: Run, place: Path, line: str, code: int, told: str) -> None:
    found, _, err = run(*line.split())
    assert (found, told in err) == (code, True), err
    said = [text for text in err.split("\n") if text.lower().startswith(("error:", "warning:"))]
    assert len(said) == 1, "one line"
    assert "Traceback" not in err


def test_a_run_is_not_replaced_while_somebody_works_in_it(run: Run, place: Path) -> None:
    with lock.locked(Path("runs/done/eval/sft"), "eval"):
        before = sorted(place.rglob("*"))
        code, _, err = run("train", "--recipe", "short.yaml", "--run", "runs/done", "--overwrite")
        assert (code, f"runs/done/eval/sft: in use by eval, process {os.getpid()} on " in err) == (1, True), err
        assert set(before) <= set(place.rglob("*")), "all is still there"


def test_a_folder_that_vanished_is_told(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has deleted or replaced the run that a command works in."""

    def write(*_: object, **__: object) -> int:
        shutil.rmtree("runs/done/sft")
        return len(Path("runs/done/sft/metrics.jsonl").read_bytes())

    monkeypatch.setattr(page, "write", write)
    code, _, err = run("report", "runs/done")
    assert (code, err.count("\n")) == (1, 1), err
    assert "error: runs/done/sft/metrics.jsonl: its folder is not there; give one that is. Where it was, another" in err


def test_nothing_is_written_where_the_key_is_missing(run: Run, place: Path) -> None:
    before = sorted(place.rglob("*"))
    assert run("data", "search", "problem.jsonl", "--to", "x.jsonl", "--teacher", "key.yaml")[0] == 1
    assert sorted(place.rglob("*")) == before


def test_an_eval_that_asked_nobody_may_be_given_otherwise(run: Run, place: Path) -> None:
    """Its settings stand there, and no reply: the model's name is forgotten first, and then given."""
    words = ("eval", f"{NO_NETWORK}/v1", "--benchmark", "medqa=exam.jsonl", "--to", "replies")
    for more in ([], ["--set", "model=m"]):
        code, _, err = run(*words, *more)
        assert (code, "nobody answers there" in err) == (1, True), err


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "--recipe", "qwen7b", "--set", "base.model=Qwen/Qwen2.5-7B-Instuct"],
        ["data", "import", "openlifescienceai/medmcqa", "--to", "x.jsonl"],
    ],
    ids=["model", "data set"],
)
def test_nobody_waits_for_a_network_that_is_not_there(place: Path, tmp_path: Path, words: list[str]) -> None:
    """Without HF_HUB_OFFLINE: the Hub's client alone tries for half a minute, and tells each try."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": NO_NETWORK, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "lite_huatuo", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"{NO_NETWORK} does not answer: " in done.stderr
    assert "Retrying" not in done.stderr
