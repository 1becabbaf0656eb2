"""Training killed at random moments, by SIGKILL, SIGTERM and SIGINT: resumed equals uninterrupted, to the bit."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lite_huatuo.errors import CheckpointError
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from tests.stage import killing
from tests.stage.comparing import assert_same_run

KILLS = 20


@pytest.fixture(scope="module")
def recipe_file(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = short_recipe.model_dump()
    tree["ppo"]["total_episodes"] = 160  # 20 updates, so that there is time to be killed in
    tree["sft"]["epochs"] = 24.0
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def train(recipe: Path, folder: Path, *more: str) -> list[str]:
    """The words that start a run, or go on with it."""
    words = ["train", "--recipe", str(recipe), "--run", str(folder), "--threads", "1", *more]
    return [*words, "--resume"] if (folder / "recipe.yaml").exists() else words


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("whole") / "run"
    killing.finish(train(recipe_file, folder))
    return RunDir.open(folder)


def starts(folder: Path, stage: str) -> int:
    path = folder / "events.jsonl"
    if not path.exists():
        return 0
    return sum(f'"{stage} started"' in line for line in path.read_text().split("\n"))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "longest"), [("sft", 2.0), ("ppo", 4.0)])
def test_killed_at_random_moments(stage: str, longest: float, whole: RunDir, recipe_file: Path, tmp_path: Path) -> None:
    """Several runs where the stage is done before it was killed often enough; each must equal the uninterrupted one."""

    def folder(number: int) -> Path:
        return tmp_path / f"run-{number}"

    def words(number: int) -> list[str]:
        return train(recipe_file, folder(number), *(["--stage", "sft"] if stage == "sft" else []))

    def ready(number: int) -> Callable[[], bool]:
        before = starts(folder(number), stage)
        return lambda: starts(folder(number), stage) > before

    def done(number: int) -> bool:
        return RunDir(folder(number)).is_done(stage)

    def compare(number: int) -> None:
        killing.finish(words(number))
        assert_same_run(whole, RunDir.open(folder(number)), ("sft",) if stage == "sft" else ("sft", "ppo"))

    hits = killing.kill_at_random(
        words, compare, ready, rng=random.Random(stage), count=KILLS, longest=longest, done=done,
        advice="--resume", early="interrupted",
    )  # fmt: skip
    print(killing.told(hits))


@pytest.mark.parametrize("name", ["environment.json", "run.json", "recipe.yaml"])
def test_a_run_folder_that_was_killed_while_it_was_made_is_made_anew(
    name: str, short_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, replace = short_recipe.model_dump(), os.replace

    def killed(source: Path, to: Path) -> None:
        if to.name == name:
            raise killing.Killed
        replace(source, to)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(killing.Killed):
        RunDir.create(tmp_path / "run", tree)
    monkeypatch.undo()
    assert RunDir.create(tmp_path / "run", tree).recipe() == tree
    with pytest.raises(CheckpointError, match="already exists"):
        RunDir.create(tmp_path / "run", tree)
