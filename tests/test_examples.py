"""Every example runs, is short, and shows what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(path for path in EXAMPLES.iterdir() if path.name != "__pycache__")
ACTOR = "ppo/final/actor/adapter_model.safetensors"


class Example(NamedTuple):
    """How an example is run: its arguments, from the toy task's files. What comes of it: what it prints and writes."""

    arguments: Callable[[dict[str, str]], list[str]] = lambda toy: []
    prints: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    holds: Callable[[str], bool] = bool  # of all it prints


def small(toy: dict[str, str]) -> list[str]:
    """Return the full tour's arguments: a folder, and settings that make it take seconds."""
    settings = [
        f"base.model={toy['model']}",
        "base.max_length=512",
        "data.max_query_length=256",
        "data.sft_limit=16",
        "sft.epochs=1.0",
        "data.heldout_limit=2",
        "data.problems_limit=12",
        "ppo.selection_problems=2",
        "ppo.total_episodes=4",
        "ppo.rollout.episodes=4",
        "ppo.rollout.max_reply_length=16",
    ]
    return ["tour", *(word for pair in settings for word in ("--set", pair))]


def best_rises_and_worst_falls(out: str) -> bool:
    """Whether the last line of the update by hand says so of its replies."""
    best, _, worst = json.loads(out.strip().split("\n")[-1].partition(": ")[2])
    return best > 0 > worst


RUNS = {
    "score_a_reply.py": Example(
        prints=(
            "right              score 1.0",
            "wrong              score 0.1",
            "denied             score 0.1",
            "without the form   score 0.0",
            "an opener only     score 0.0",
        )
    ),
    "ppo_by_hand.py": Example(
        prints=("epoch 0", "clipped 0%", "change of each reply's log-probability"), holds=best_rises_and_worst_falls
    ),
    "train_from_python.py": Example(lambda toy: [toy["model"], "run"], ("ppo: ",), (f"run/{ACTOR}",)),
    "full_tour.sh": Example(
        small,
        ("ok", "SFT + PPO", "KL to base + unmerged adapter"),
        ("tour/model/model.safetensors", f"tour/run/{ACTOR}"),
    ),
}


def run(path: Path, *arguments: str, cwd: Path) -> str:
    """Run an example as its kind is run, with the commands of this environment; return what it prints."""
    program = {".py": sys.executable, ".sh": "bash"}[path.suffix]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [program, str(path), *arguments],
        cwd=cwd,
        env={**os.environ, "PATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_runs(path: Path, toy: dict[str, str], tmp_path: Path) -> None:
    assert path.name in RUNS, "say in RUNS how it is run, and what it shows"
    example = RUNS[path.name]
    out = run(path, *example.arguments(toy), cwd=tmp_path)
    assert example.prints
    for words in example.prints:
        assert words in out
    assert example.holds(out)
    for name in example.writes:
        assert (tmp_path / name).is_file(), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_short_and_tells_how_it_is_run(path: Path) -> None:
    lines = path.read_text().split("\n")
    assert len(lines) <= 60
    assert any(f"examples/{path.name}" in line for line in lines[:12]), "say how it is typed"
