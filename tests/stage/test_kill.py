"""kill -9 at random moments, through the real command line: resumed equals uninterrupted, to the bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lite_huatuo import jsonl
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from tests.stage.comparing import assert_same_run

KILLS = 5


@pytest.fixture(scope="module")
def recipe_file(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = short_recipe.model_dump()
    tree["ppo"]["total_episodes"] = 160  # 20 updates, so that there is time to be killed in
    tree["sft"]["epochs"] = 12.0
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(recipe: Path, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    code = "from lite_huatuo.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", "--recipe", str(recipe), "--run", str(folder), "--threads", "1", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()[-2000:]


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(recipe_file, folder))
    return RunDir.open(folder)


def starts(folder: Path, stage: str) -> int:
    path = folder / "events.jsonl"
    if not path.exists():
        return 0
    return sum(f'"{stage} started"' in line for line in path.read_text().split("\n"))


def kill_once(recipe: Path, folder: Path, stage: str, delay: float) -> bool:
    """Start or resume, wait for the stage to begin and `delay` seconds more, kill; False if it ended before."""
    before = starts(folder, stage)
    process = start(recipe, folder, *(["--resume"] if folder.exists() else []))
    while starts(folder, stage) == before and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "longest"), [("sft", 2.0), ("ppo", 4.0)])
def test_killed_at_random_moments(stage: str, longest: float, whole: RunDir, recipe_file: Path, tmp_path: Path) -> None:
    """Several runs where the stage is done before it was killed often enough; each must equal the uninterrupted one."""
    rng, kills, runs = random.Random(f"{stage} 1"), 0, 0
    while kills < KILLS:
        folder, runs = tmp_path / f"run-{runs}", runs + 1
        while kills < KILLS and not (folder.exists() and RunDir(folder).is_done(stage)):
            kills += kill_once(recipe_file, folder, stage, rng.uniform(0.0, longest))
        finish(start(recipe_file, folder, "--resume"))
        assert_same_run(whole, RunDir.open(folder))
        assert len([row for _, row in jsonl.iter_rows(folder / "ppo" / "metrics.jsonl")]) == 21
