"""What a model card tells, read from a run folder. What is not there is left out of the card, never made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, run_dir
from lite_huatuo.errors import CheckpointError, RecordError
from lite_huatuo.run_dir import STAGES

Log = dict[str, Any]
OTHERWISE = "delete it: the card is then made without it"
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
    heldout = _summaries(run / "eval" / "report.json")
    return Facts(
        recipe=recipe,
        stage=stage,
        heldout={name: heldout[name] for name in STAGES if name in heldout},
        benchmarks=_summaries(run / "eval" / stage / "report.json"),
        acceptance=_summaries(run / "verifier.json", ("report",)).get("report"),
        curves={name: points for name in CURVES if (points := _curve(run, name))},
        languages=_languages(run / "eval"),
        environment=run_dir.kept(run / "environment.json", OTHERWISE),
    )


def _summaries(path: Path, names: tuple[str, ...] = ()) -> dict[str, Log]:
    """Return the objects in the object that a file holds: those of these names, or all."""
    found = {name: value for name, value in run_dir.kept(path, OTHERWISE).items() if not names or name in names}
    if not all(isinstance(value, dict) for value in found.values()):
        raise CheckpointError(f"{path}: damaged; put it back from a copy or {OTHERWISE}")
    return found


def _curve(run: Path, name: str) -> list[tuple[float, float]]:
    stage, counter = CURVES[name]
    path = run / stage / "metrics.jsonl"
    if not path.is_file():
        return []
    return [
        (run_dir.count(row, counter, where), row[name])
        for where, row in jsonl.iter_rows(path)
        if row.get(name) is not None
    ]


def _languages(folder: Path) -> list[str]:
    """Return the languages of the held-out questions: zh where a question has Chinese characters, else en."""
    found = set()
    for path in folder.glob("heldout.*.jsonl"):
        for where, row in jsonl.iter_rows(path):
            if not isinstance(question := row.get("question"), str):
                raise RecordError(f"{where}: no question, damaged; remove this line")
            chinese = any("\u4e00" <= character <= "\u9fff" for character in question)
            found.add("zh" if chinese else "en")
    return sorted(found) or ["en"]
