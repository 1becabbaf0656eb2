"""What a model card tells, read from a run folder. What is not there is left out of the card, never made up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.run_dir import STAGES

Log = dict[str, Any]
CURVES = {  # metric -> (stage, the counter it is drawn over)
    "sft/loss": ("sft", "step"),
    "sft/eval_loss": ("sft", "step"),
    "score/mean": ("ppo", "update"),
    "reference/kl_per_token": ("ppo", "update"),
}


@dataclass(frozen=True)
class Facts:
    """Of one run: its recipe, evaluations, verifier report, curves, versions; `stage` is the one that is exported."""

    recipe: Log
    stage: str
    heldout: dict[str, Log]  # base, sft, ppo -> summary on the held-out problems
    benchmarks: dict[str, Log]  # benchmark -> summary, of the exported stage
    acceptance: Log | None  # how good the verifier was on the shipped suite
    curves: dict[str, list[tuple[float, float]]]
    languages: list[str]
    environment: Log


def read(run: Path, recipe: Log, stage: str) -> Facts:
    """Read a run folder; `recipe` is its resolved recipe."""
    heldout = _json(run / "eval" / "report.json") or {}
    acceptance = _json(run / "verifier.json") or {}
    return Facts(
        recipe=recipe,
        stage=stage,
        heldout={name: heldout[name] for name in STAGES if name in heldout},
        benchmarks=_json(run / "eval" / stage / "report.json") or {},
        acceptance=acceptance.get("report"),
        curves={name: points for name in CURVES if (points := _curve(run, name))},
        languages=_languages(run / "eval"),
        environment=_json(run / "environment.json") or {},
    )


def _json(path: Path) -> Log | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _curve(run: Path, name: str) -> list[tuple[float, float]]:
    stage, counter = CURVES[name]
    path = run / stage / "metrics.jsonl"
    if not path.is_file():
        return []
    return [(row[counter], row[name]) for _, row in jsonl.iter_rows(path) if row.get(name) is not None]


def _languages(folder: Path) -> list[str]:
    """Return the languages of the held-out questions: zh where a question has Chinese characters, else en."""
    found = set()
    for path in folder.glob("heldout.*.jsonl"):
        for _, row in jsonl.iter_rows(path):
            chinese = any("\u4e00" <= character <= "\u9fff" for character in row["question"])
            found.add("zh" if chinese else "en")
    return sorted(found) or ["en"]
