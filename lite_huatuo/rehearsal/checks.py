"""What a rehearsal looks at in run folders. Each check returns what is wrong in words, or None."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, manifest
from lite_huatuo.recipe import Recipe

ADAPTERS = ("actor", "critic", "reference")
WEIGHTS = "adapter_model.safetensors"


def trained(recipe: Recipe, run: Path) -> str | None:
    """Look at a finished run of both stages: steps, checkpointing, learning, and what was left in memory."""
    events = _rows(run / "events.jsonl")
    return (
        _steps(recipe, run, events)
        or _recomputed(recipe, run, events)
        or _finite(run)
        or _released(events)
        or _moved(run)
    )


def _steps(recipe: Recipe, run: Path, events: list[dict[str, Any]]) -> str | None:
    """Hold the optimizer steps and updates against those that the recipe asks for."""
    examples = next(event["examples"] for event in events if event["event"] == "sft started")
    wanted = math.ceil(math.ceil(examples / recipe.sft.batch_size) * recipe.sft.epochs)
    done = max(row["step"] for row in _rows(run / "sft" / "metrics.jsonl"))
    if done != wanted:
        return f"stage 1 took {done} optimizer steps of {recipe.sft.batch_size} examples; the recipe makes {wanted}"
    updates = max(row["update"] for row in _rows(run / "ppo" / "metrics.jsonl"))
    if updates != recipe.ppo.updates:
        return f"stage 2 made {updates} updates; the recipe makes {recipe.ppo.updates}"
    return None


def _recomputed(recipe: Recipe, run: Path, events: list[dict[str, Any]]) -> str | None:
    """Hold the layers whose activations were computed again in backward against the recipe."""
    layers = next(event["layers"] for event in events if event["event"] == "sft started")
    for stage, key, asked in (
        ("sft", "sft/recomputed_layers", recipe.sft.gradient_checkpointing),
        ("ppo", "learn/recomputed_layers", recipe.ppo.gradient_checkpointing),
    ):
        found = {row[key] for row in _rows(run / stage / "metrics.jsonl") if key in row}
        if found != {layers if asked else 0}:
            return (
                f"{stage}.gradient_checkpointing is {str(asked).lower()}, but {sorted(found)} of {layers} layers were "
                "computed again in backward"
            )
    return None


def _finite(run: Path) -> str | None:
    for stage in ("sft", "ppo"):
        for row in _rows(run / stage / "metrics.jsonl"):
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    return f"{name} is {value} in {stage}/metrics.jsonl"
    return None


def _released(events: Iterable[dict[str, Any]]) -> str | None:
    """Look for a base that stage 1 left in memory."""
    if any(event["event"] == "base still in memory" for event in events):
        return "the base of stage 1 was still in memory when stage 2 loaded its own: it takes the memory of two"
    return None


def _moved(run: Path) -> str | None:
    """Hold the last policy against the one that stage 2 began with."""
    last = max((run / "ppo" / "checkpoints").glob("update-*"))
    start = run / "sft" / "final" / "actor"
    for adapter in ("actor", "critic"):
        if difference(last / adapter, start) == 0:
            return f"the {adapter} has learned nothing in stage 2"
    return None


def same(first: Path, second: Path, *, tolerance: float) -> str | None:
    """Hold the final adapters of two runs against one another."""
    for adapter in ADAPTERS:
        found = difference(first / "ppo" / "final" / adapter, second / "ppo" / "final" / adapter)
        if not found <= tolerance:
            return f"{adapter}: weights differ by up to {found:.2g} from those of the undisturbed run"
    return None


def difference(first: Path, second: Path) -> float:
    """Return the largest difference between the weights of two adapters; infinite where they have other tensors."""
    from safetensors.torch import load_file

    a, b = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    if a.keys() != b.keys():
        return math.inf
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    return {str(path.relative_to(folder)): manifest.digest(path) for path in folder.rglob("*") if path.is_file()}


def answered(folder: Path, wanted: int) -> str | None:
    """Count the replies that an evaluation kept."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        found = next(iter(report.values()))["questions"]
    except (OSError, ValueError, KeyError, StopIteration) as error:
        return f"no report of the evaluation ({type(error).__name__})"
    return None if found == wanted else f"{found} of {wanted} questions were answered"


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in jsonl.iter_rows(path)]
