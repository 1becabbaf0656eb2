"""Commands that may load a base import unsloth before transformers, which it patches on import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lite_huatuo import jsonl
from lite_huatuo.recipe import Recipe
from tests.stage import test_verifier_adapter

# a stand-in that says what was imported before it, and ends the command
UNSLOTH = """
import sys
late = [name for name in ("transformers", "peft", "trl") if name in sys.modules]
sys.stderr.write(f"unsloth came after {', '.join(late) or 'nothing'}\\n")
sys.exit(7)
"""
COMMANDS = {
    "train": ["train", "--recipe", "{recipe}", "--run", "{new}"],
    "eval": ["eval", "{run}", "--benchmark", "medqa={exams}"],
    "chat": ["chat", "{run}", "--once", "Why?"],
    "export": ["export", "{run}", "--to", "{new}", "--stage", "sft"],
    "verifier check": ["verifier", "check", "--recipe", "{judged_by_adapter}"],
    "verifier build": [
        "verifier", "build", "{problems}", "--to", "{new}", "--run", "{run}", "--judge", "exact",
    ],
    "verifier train": ["verifier", "train", "--judged", "{judged}", "--recipe", "{recipe}", "--to", "{new}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(toy: dict[str, str], short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("unsloth")
    (folder / "path").mkdir()
    (folder / "path" / "unsloth.py").write_text(UNSLOTH)
    tree = short_recipe.model_dump()
    tree["base"]["backend"] = "unsloth"
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(yaml.safe_dump(tree))
    rows = [{**vars(row), "label": row.label} for row in test_verifier_adapter.judged(20)]
    jsonl.write(folder / "judged.jsonl", rows)
    (folder / "judge").mkdir()
    (folder / "judge" / "adapter_config.json").write_text("{}")
    (folder / "exams.jsonl").write_text(
        '{"id": "1", "question": "Which?", "options": {"A": "a", "B": "b"}, "answer_idx": "A"}\n'
    )
    tree["verifier"] = {"kind": "adapter", "adapter": str(folder / "judge"), "threshold": 0.5}
    (folder / "judged_by_adapter.yaml").write_text(yaml.safe_dump(tree))
    names = {name: str(folder / name) for name in ("path", "run", "new")}
    names |= {name: str(folder / f"{name}.jsonl") for name in ("judged", "exams")}
    names |= {
        "recipe": str(folder / "run" / "recipe.yaml"),
        "judged_by_adapter": str(folder / "judged_by_adapter.yaml"),
    }
    return {**names, "problems": toy["problems"]}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_unsloth_is_imported_before_transformers(words: list[str], world: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lite_huatuo", *(word.format(**world) for word in words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([world["path"], *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "unsloth came after nothing\n" in done.stderr, done.stderr[-2000:]
    assert done.returncode == 7
