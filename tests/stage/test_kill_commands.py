"""eval and export, killed at random moments by SIGKILL, SIGTERM and SIGINT, go on where they were: what they leave in
the end is what they leave undisturbed. What any command says when it is interrupted; folders in use are refused."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lite_huatuo import jsonl, lock, manifest, stopping
from lite_huatuo import recipe as recipes
from lite_huatuo.data import runner, side_files
from lite_huatuo.evaluation import benchmarks
from lite_huatuo.verifier import build as building
from tests import tiny
from tests.stage import data_jobs, killing
from tests.stage.data_jobs import command

QUESTIONS = 60
KILLS = 20


@pytest.fixture(scope="module")
def run_folder(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stage 1 is finished, with a random adapter. Its base has many layers, its exports many shards."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    final = folder / "sft" / "final"
    texts = tiny.toy_texts(tiny.toy_rows(0, 100)[0])
    base = tiny.make_model(folder.parent / "model", texts, layers=12, vocabulary=400)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(network, config).save_pretrained(final / "actor")
    manifest.seal(final)
    (folder / "eval").mkdir()
    recipe = recipes.check(tiny.toy_recipe({**toy, "model": str(base)}), "toy").model_dump()
    recipe["export"]["max_shard_size"] = "10KB"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"id": f"q{n}", "question": f"{'Long ' * (3 * n % 11)}sign {n}?", "options": {"A": "rest", "B": "salt"},
         "answer_idx": "AB"[n % 2], "answer": ["rest", "salt"][n % 2]}
        for n in range(QUESTIONS)
    ]  # fmt: skip
    return data_jobs.write(tmp_path_factory.mktemp("questions") / "medqa.jsonl", rows)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluated(folder: Path) -> tuple[list[dict], bytes]:
    """The rows in one order, whatever order they were written in, and the report to the byte."""
    rows = [row for _, row in jsonl.iter_rows(folder / "medqa.jsonl")]
    assert {path.name for path in folder.iterdir()} == {"medqa.jsonl", "medqa.settings.json", "report.json"}
    return sorted(rows, key=lambda row: (row["id"], row["run"])), (folder / "report.json").read_bytes()


@pytest.mark.slow
def test_eval(run_folder: Path, questions: Path, tmp_path: Path) -> None:
    def words(number: int | str) -> list[str]:
        return [
            "eval", f"{run_folder}/sft", "--benchmark", f"medqa={questions}", "--to", str(tmp_path / f"{number}"),
            "--temperature", "1.4", "--seeds", "2", "--batch-size", "4", "--max-tokens", "24", "--threads", "1",
        ]  # fmt: skip

    def compare(number: int) -> None:
        assert evaluated(tmp_path / f"{number}") == evaluated(tmp_path / "whole")

    def ready(number: int) -> Callable[[], bool]:
        return killing.grown(tmp_path / f"{number}" / "medqa.jsonl")

    killing.finish(words("whole"))
    hits = killing.kill_at_random(words, compare, ready, rng=random.Random(1), count=KILLS, longest=2.0)
    print(killing.told(hits))


@pytest.mark.slow
def test_export(run_folder: Path, tmp_path: Path) -> None:
    def words(number: int | str) -> list[str]:
        return ["export", str(run_folder), "--to", str(tmp_path / f"{number}" / "model")]

    def compare(number: int) -> None:
        assert contents(tmp_path / f"{number}" / "model") == contents(tmp_path / "whole" / "model")
        left = {path.name for path in (tmp_path / f"{number}").iterdir()}
        assert left <= {"model", ".model.lock"}, "nothing is left of what was killed"

    def ready(number: int) -> Callable[[], bool]:
        return killing.grown(tmp_path / f"{number}" / ".exporting-model" / "state.json")

    def done(number: int) -> bool:  # the same command would be refused: the folder is there
        return (tmp_path / f"{number}" / "model").exists()

    killing.finish(words("whole"))
    hits = killing.kill_at_random(words, compare, ready, rng=random.Random(2), count=KILLS, longest=0.6, done=done)
    print(killing.told(hits))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_interrupted_says_how_to_go_on(
    number: int, code: int, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "load", lambda benchmark: signal.raise_signal(number))
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    words = ["eval", "http://127.0.0.1:9/v1", "--benchmark", f"medqa={questions}", "--to", tmp_path / "e"]
    again = "interrupted; what is done is kept: run the same command again"
    assert command(*words)[::2] == (code, f"\n{again}\n")
    assert command(*words, "--overwrite")[::2] == (code, f"\n{again}, without --overwrite\n")
    monkeypatch.setattr(recipes, "names", lambda: signal.raise_signal(number))
    assert command("recipes", "list")[::2] == (code, "\ninterrupted\n")
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before, "handlers are put back"


def test_handlers_inside_one_another_are_put_back() -> None:
    with stopping.on_signals() as outer:
        with stopping.on_signals() as inner, pytest.raises(stopping.Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert (inner.signal, outer.signal) == (signal.SIGTERM, 0)
        with pytest.raises(stopping.Interrupted):
            signal.raise_signal(signal.SIGINT)
        assert outer.signal == signal.SIGINT


def test_a_job_that_takes_signals_itself_puts_handlers_back() -> None:
    async def work() -> None:
        async with runner.stopped_by_signals(stop := runner.Stop()):
            signal.raise_signal(signal.SIGTERM)
            await stop.heard.wait()

    with stopping.on_signals():
        before = [signal.getsignal(each) for each in stopping.SIGNALS]
        asyncio.run(work())
        assert [signal.getsignal(each) for each in stopping.SIGNALS] == before


def test_a_folder_in_use_is_refused_with_its_owner(run_folder: Path, questions: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    ask = ("eval", "http://127.0.0.1:9/v1", "--benchmark", f"medqa={questions}", "--store", tmp_path / "s.sqlite")
    for words, work in ((ask, "eval"), (("export", run_folder), "export")):
        with lock.locked(to, work):
            ended = command(*words, "--to", to)
        assert ended.code == 1
        assert f"in use by {work}, process {os.getpid()} on " in ended.err
        assert not to.exists()


def killed_at(place: Path) -> Callable[[Path, Path], None]:
    """Return what renames files, but is killed where one would get this place."""
    replace = os.replace

    def renamed(source: Path, target: Path) -> None:
        if target == place:
            signal.raise_signal(signal.SIGTERM)
        replace(source, target)

    return renamed


def test_verifier_build_that_is_killed_while_it_replaces_leaves_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, old = tmp_path / "pairs", building.Built({"train": [], "test": []}, {})
    building.write(folder, old)
    with monkeypatch.context() as patched:
        patched.setattr(jsonl, "write", lambda path, rows: signal.raise_signal(signal.SIGTERM))
        with stopping.on_signals(), pytest.raises(stopping.Interrupted):
            building.write(folder, old)
    assert (folder / building.MANIFEST).exists(), "nothing is replaced before all is written"
    monkeypatch.setattr(side_files.os, "replace", killed_at(folder / "test.jsonl"))
    with stopping.on_signals(), pytest.raises(stopping.Interrupted):
        building.write(folder, old)
    assert not (folder / building.MANIFEST).exists()
