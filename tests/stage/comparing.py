"""Are two run folders the same run? Adapters, value head, metrics (without times and memory), samples, predictions."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from lite_huatuo import jsonl
from lite_huatuo.run_dir import RunDir


def rows(path: Path) -> list[dict]:
    return [
        {key: value for key, value in row.items() if not key.startswith(("time/", "memory/"))}
        for _, row in jsonl.iter_rows(path)
    ]


def assert_same_tensors(one: Path, other: Path) -> None:
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].equal(right[name]), f"{one.parent.name}/{one.name}: {name} differs"


def assert_same_run(one: RunDir, other: RunDir, stages: tuple[str, ...] = ("sft", "ppo")) -> None:
    """Bit for bit, but for times."""
    weights = {
        "sft": ["final/actor/adapter_model.safetensors"],
        "ppo": [f"final/{name}/adapter_model.safetensors" for name in ("actor", "critic", "reference")]
        + ["final/value_head.safetensors"],
    }
    for stage in stages:
        for name in weights[stage]:
            assert_same_tensors(one.stage(stage) / name, other.stage(stage) / name)
        assert rows(one.stage(stage) / "metrics.jsonl") == rows(other.stage(stage) / "metrics.jsonl")
        assert rows(one.path / "eval" / f"heldout.{stage}.jsonl") == rows(
            other.path / "eval" / f"heldout.{stage}.jsonl"
        )
    if "ppo" in stages:
        assert rows(one.stage("ppo") / "samples.jsonl") == rows(other.stage("ppo") / "samples.jsonl")
