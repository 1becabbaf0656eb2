"""How many replies are written at once where a recipe says "auto": by hand-worked numbers, on a stand-in for a card,
and kept by a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lite_huatuo import recipe as recipes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.planning import cards, config_file, models, phases, plan, row_count
from lite_huatuo.planning.memory import Numbers
from lite_huatuo.processes import Processes
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo_stage
from lite_huatuo.training.progress import Quiet
from tests import tiny

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
}
SHAPE = models.from_config(CONFIG, "here")
SETTINGS = phases.Settings(
    gpu=True,
    numbers=Numbers(2, "none"), lora=models.lora(4, "all-linear"), max_length=16, query=8, reply=8, sft_rows=1,
    sft_optimizer="adamw", sft_checkpointing=True, autocast=False, episodes=100, minibatches=1, generated=1, top_p=1.0,
    microbatch_tokens=64, ppo_optimizer="adamw", ppo_checkpointing=True, trunk_layers=None,
)  # fmt: skip
# Two adapters of 8,192 numbers: AdamW's states take 8 bytes each of them.
OPTIMISERS = 2 * 8 * 8192
# A row: keys and values of 16 tokens (2 layers, 2 heads of 16, 2 bytes); reading its 8 tokens (a token: 832 of the
# residual stream, 12 times 128 in the MLP), which is more than writing one; a tenth of both for fragmentation.
ROW = (2 * 2 * 2 * 16 * 16 * 2 + 8 * (832 + 12 * 128)) * 11 // 10
LAYERS = 2 * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)  # bytes of both layers' weights


@pytest.mark.parametrize(
    ("room", "count"), [(24, 24), (31, 24), (5, 5), (1, 1), (0, 1), (99, 96), (100, 100), (10**6, 100)]
)  # multiples of 8 from 8 on, or all episodes of an update
def test_as_many_rows_as_fit_beside_the_optimisers_to_come(room: int, count: int) -> None:
    assert ROW == 25_344
    assert phases.rows(SHAPE, SETTINGS, OPTIMISERS + ROW * room) == count


def test_one_byte_less_is_one_row_or_step_less() -> None:
    assert phases.rows(SHAPE, SETTINGS, OPTIMISERS + ROW * 24 - 1) == 16
    assert phases.rows(SHAPE, SETTINGS, OPTIMISERS + ROW * 5 - 1) == 4


def test_fsdp2_holds_its_layers_or_has_two_of_them_in_hand() -> None:
    deep = models.from_config({**CONFIG, "num_hidden_layers": 4}, "here")
    parts = {"optimisers": 2 * OPTIMISERS, "held": 2 * LAYERS, "two in hand": LAYERS}
    row = ROW + 2 * 2 * 2 * 16 * 16 * 2 * 11 // 10  # the cache of two more layers
    for held, count in (("held", 24), ("two in hand", 5)):
        free = parts["optimisers"] + parts[held] + row * count + count  # rounded down above
        assert phases.rows(deep, SETTINGS, free, cards=2, strategy="fsdp2") == count


def test_what_is_loaded_and_what_is_to_come_make_the_rollouts_peak() -> None:
    there = phases.loaded(SHAPE, SETTINGS, cards=1, strategy="ddp")
    (peak,) = (phase for phase in phases.phases(SHAPE, replace(SETTINGS, generated=24)) if phase.name == "rollout")
    whole = phases.on_card(peak, SHAPE, cards=1, strategy="ddp", gpu=True).total
    assert there + OPTIMISERS + ROW * 24 == pytest.approx(whole, abs=1)


def on_a_card(monkeypatch: pytest.MonkeyPatch, *, free: int, held: int, total: int) -> Any:
    """A network on a stand-in for a card, torch's allocator holding some bytes that nobody uses."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000 + held)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    config, _ = config_file.find("Qwen/Qwen2.5-7B-Instruct")
    parameters = [SimpleNamespace(device=torch.device("cuda", 0))]
    return SimpleNamespace(parameters=lambda: parameters, config=SimpleNamespace(to_dict=lambda: config))


def test_training_takes_the_number_that_plan_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, card = recipes.load("qwen7b"), cards.find("24gb")
    shape, _ = plan.shape_of(recipe)
    made = plan.make(recipe, shape, card)
    free = card.bytes - phases.loaded(shape, made.settings, cards=1, strategy="ddp")
    network = on_a_card(monkeypatch, free=free - 2**30, held=2**30, total=card.bytes)
    assert row_count.choose(recipe, network) == made.rows
    assert made.rows > 64
    assert made.peak.total <= (1 - phases.KEPT_FREE) * card.bytes


def test_processes_take_the_number_of_the_card_with_the_least_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(Processes):
        def gather(self, item: Any) -> list[Any]:
            return [item, item - 6 * 2**30]

    recipe = recipes.load("qwen7b")
    network = on_a_card(monkeypatch, free=16 * 2**30, held=0, total=24 * 2**30)
    both, alone = row_count.choose(recipe, network, Two(0, 2)), row_count.choose(recipe, network)
    less = on_a_card(monkeypatch, free=10 * 2**30, held=0, total=24 * 2**30)
    assert both == row_count.choose(recipe, less) < alone


def test_on_a_cpu_and_for_an_unknown_architecture_it_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipes.load("qwen7b")
    cpu = SimpleNamespace(parameters=lambda: [torch.zeros(1)])
    assert row_count.choose(recipe, cpu) == phases.FIXED_ROWS == 16
    network = on_a_card(monkeypatch, free=2**34, held=0, total=2**35)
    network.config = SimpleNamespace(to_dict=lambda: {"model_type": "gemma3"})
    assert row_count.choose(recipe, network) == 16


def test_a_resumed_stage_goes_on_with_the_number_it_began_with(
    toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tiny.short_recipe(toy)
    tree["ppo"]["rollout"]["batch_size"] = tree["eval"]["batch_size"] = "auto"
    recipe = recipes.check(tree, "auto")
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    shared = SharedBase.fresh(backends.load(toy["model"]), "actor", rank=4, alpha=8, targets="all-linear")
    shared.save("actor", tmp_path / "start")
    monkeypatch.setattr(row_count, "choose", lambda *_, **__: 24)
    assert row_count.of_stage(recipe, run, "ppo", shared) == 24
    monkeypatch.setattr(row_count, "choose", lambda *_, **__: 8)  # less is free by now
    stage = ppo_stage.assemble(recipe, run, Quiet(), tmp_path / "start")
    assert (stage.rows, stage.limits["batch_size"]) == (24, 24)
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [(e["stage"], e["rows"]) for e in events if e["event"] == "rows chosen"] == [("ppo", 24)]


def test_a_number_in_the_recipe_is_taken_as_it_is() -> None:
    recipe = recipes.load("qwen7b", ("ppo.rollout.batch_size=32", "eval.batch_size=3"))
    assert (recipe.rollout_rows(104), recipe.heldout_arguments(104)["batch_size"]) == (32, 3)
    auto = recipes.load("qwen7b")
    assert (auto.rollout_rows(104), auto.heldout_arguments(104)["batch_size"]) == (104, 104)
