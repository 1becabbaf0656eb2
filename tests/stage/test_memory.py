"""One copy of the base in the process, whatever the roles; memory that is told by phase."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from lite_huatuo import recipe as recipes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo_stage
from lite_huatuo.training.phases import Phases
from lite_huatuo.training.progress import Quiet
from tests import tiny


def copies(weight: torch.Tensor) -> int:
    """Number of storages in the process that hold these numbers."""
    tensors = (thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor))
    alike = [x for x in tensors if x.shape == weight.shape and x.dtype == weight.dtype and x.equal(weight)]
    return len({x.untyped_storage().data_ptr() for x in alike})


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_the_base_is_in_memory_once(tmp_path: Path, quantization: str) -> None:
    """Actor, critic, reference and a verifier adapter: every weight of the base stands in one place."""
    files = tiny.write_toy(tmp_path / "toy", seed=987)  # numbers that no other test's model has
    start = SharedBase.fresh(
        backends.load(files["model"], quantization=quantization), "actor", rank=8, alpha=16, targets="all-linear"
    )
    start.save("actor", tmp_path / "start")
    del start
    tree = tiny.short_recipe(files)
    tree["base"]["quantization"] = quantization
    recipe = recipes.check(tree, "once")
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    gc.collect()
    stage = ppo_stage.assemble(recipe, run, Quiet(), tmp_path / "start")
    assert set(stage.shared.peft.peft_config) == {"actor", "critic", "reference"}
    weights = [p for name, p in stage.shared.peft.named_parameters() if "lora_" not in name and p.numel() > 64]
    assert len(weights) == 2 * 7 + 2  # the linear layers of two decoder layers, embeddings and lm_head
    for weight in weights:
        assert copies(weight.data) == 1
    stage.log.close()


def test_no_base_is_alive_when_the_next_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through both stages and what comes after them in one process, whenever Python itself collects."""
    loaded: list[weakref.ref] = []
    alive: list[int] = []
    load = backends._load_plain

    def counted(*arguments: Any) -> Any:
        alive.append(sum(each() is not None for each in loaded))
        network = load(*arguments)
        loaded.extend(map(weakref.ref, [network, *network.parameters()]))
        return network

    monkeypatch.setattr(backends, "_load_plain", counted)
    files = tiny.write_toy(tmp_path / "toy")
    tree = tiny.short_recipe(files)
    tree["data"]["sft_limit"] = 8
    tree["sft"].update(optimizer="paged_adamw_8bit", epochs=1.0)  # for which transformers registers the embeddings
    tree["ppo"].update(total_episodes=16)
    gc.collect()
    gc.disable()
    try:
        tiny.trained(recipes.check(tree, "short"), tmp_path / "run")
        backends.load(files["model"])
    finally:
        gc.enable()
    assert alive == [0, 0, 0]
    assert len(loaded) > 3 * 16


def test_a_phase_tells_its_seconds_and_its_peak() -> None:
    phases = Phases()
    with phases("small"):
        torch.ones(1000)
    with phases("large"):
        torch.ones(50 * 2**18)  # 50 MiB, freed at the end of the block's work
    with phases("small"):
        pass
    figures = phases.figures
    assert set(figures) == {f"time/{n}_seconds" for n in ("small", "large")} | {
        f"memory/{n}_mib" for n in ("small", "large")
    }
    assert figures["memory/large_mib"] > figures["memory/small_mib"] + 30
    assert phases.seconds == pytest.approx(figures["time/small_seconds"] + figures["time/large_seconds"])
