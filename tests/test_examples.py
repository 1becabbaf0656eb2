"""Every example runs, is short, and shows what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = {
    "score_a_reply.py": [
        "right              score 1.0",
        "wrong              score 0.1",
        "denied             score 0.1",
        "without the form   score 0.0",
        "an opener only     score 0.0",
    ],
    "ppo_by_hand.py": ["epoch 0", "clipped 0%", "change of each reply's log-probability"],
}


def run(*words: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(words, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", QUICK)
def test_quick_examples(name: str, tmp_path: Path) -> None:
    out = run(sys.executable, str(EXAMPLES / name), cwd=tmp_path)
    for words in QUICK[name]:
        assert words in out


def test_ppo_by_hand_raises_the_best_reply_and_lowers_the_worst(tmp_path: Path) -> None:
    out = run(sys.executable, str(EXAMPLES / "ppo_by_hand.py"), cwd=tmp_path)
    best, _, worst = eval(out.strip().split("\n")[-1].partition(": ")[2])
    assert best > 0 > worst


def test_train_from_python(toy: dict[str, str], tmp_path: Path) -> None:
    out = run(sys.executable, str(EXAMPLES / "train_from_python.py"), toy["model"], str(tmp_path / "run"), cwd=tmp_path)
    assert "ppo: " in out
    assert (tmp_path / "run" / "ppo" / "final" / "actor" / "adapter_model.safetensors").is_file()


def test_full_tour(toy: dict[str, str], tmp_path: Path) -> None:
    small = [
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
    out = run(
        "bash",
        str(EXAMPLES / "full_tour.sh"),
        "tour",
        *(word for pair in small for word in ("--set", pair)),
        cwd=tmp_path,
    )
    for words in ("ok", "SFT + PPO", "KL to base + unmerged adapter"):
        assert words in out
    assert (tmp_path / "tour" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().split("\n")) <= 60
