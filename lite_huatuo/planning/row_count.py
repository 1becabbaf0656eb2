"""How many replies are written at once where a recipe says "auto": on a card as many as fit by `plan`'s own formula.

A stage keeps the number in the run folder (<stage>/rows.json): a resumed one goes on with it. To have it chosen for
another card, delete that file; replies then differ by rounding.
"""

from __future__ import annotations

from typing import Any

import torch

from lite_huatuo.errors import BackendError
from lite_huatuo.models import sharding
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.planning import models, phases, settings
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir

FACTS = "rows.json"


def choose(recipe: Recipe, network: Any, processes: Processes = ALONE, *, sharded: bool = False) -> int:
    """Return the number for what is free now, with what writes and judges loaded; that of the card with the least.
    `sharded`: `network` is spread over the processes, fsdp2.

    On a CPU, and for a base whose memory `plan` cannot tell, it is fixed.
    """
    devices = {parameter.device for parameter in network.parameters()}
    if not all(device.type == "cuda" for device in devices):
        return phases.FIXED_ROWS
    try:
        shape = models.from_config(network.config.to_dict(), recipe.base.model)
    except BackendError:
        return phases.FIXED_ROWS
    free = min(phases.free_for_rows(*free_bytes(device)) for device in devices)
    free = min(processes.gather(free))
    cards, strategy = (processes.count, "fsdp2") if sharded else (1, "ddp")
    return phases.rows(shape, settings.of(recipe, shape, gpu=True), free, cards=cards, strategy=strategy)


def free_bytes(device: torch.device) -> tuple[int, int]:
    """Return (free, total) bytes of a card; free is also what torch holds of it and does not use."""
    free = sharding.free_bytes(device)
    assert free is not None, "asked for cards only"
    return free, torch.cuda.mem_get_info(device)[1]


def of_stage(recipe: Recipe, run: RunDir, stage: str, shared: SharedBase, processes: Processes = ALONE) -> int:
    """Return the number that a stage ("sft", "ppo") of the run began with; choose, keep and log it if it begins now.
    A recipe that says "auto" nowhere has none chosen."""
    if "auto" not in (recipe.ppo.rollout.batch_size, recipe.eval.batch_size):
        return phases.FIXED_ROWS
    name = f"{stage}/{FACTS}"
    kept = processes.once(lambda: run.facts(name).get("rows"))
    if isinstance(kept, int):
        return kept
    found = choose(recipe, shared.causal, processes, sharded=shared.sharded is not None)
    run.remember(name, {"rows": found})
    run.event("rows chosen", stage=stage, rows=found)
    return found
