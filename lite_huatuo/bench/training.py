"""Both stages by the product's own functions, short; then stage 2 again from a checkpoint, compared."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lite_huatuo.bench import assembled, measure
from lite_huatuo.bench.place import Place
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import phases, ppo, sft
from lite_huatuo.training.progress import Quiet

UPDATES = 3
ADAPTERS = ("actor", "critic")
PHASES = {"rollout": "rollout", "scoring": "scoring", "learning": "update"}  # of metrics.jsonl: of `plan`


class Clock(Quiet):
    """Notes when the optimizer steps of stage 1 were done, and the peak of memory among them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.peak: float | None = None

    def start(self, what: str, total: int) -> None:
        """Stage 1 begins to learn, or something else does."""
        if what == "train sft":
            measure.clean()
            self.times = [time.perf_counter()]

    def advance(self, units: int = 1, **figures: float) -> None:
        """A step is done."""
        if units == 1 and self.times:
            measure.sync()
            self.times.append(time.perf_counter())
            self.peak = phases.peak_mib()


def run(place: Place) -> dict[str, Any]:
    """Train, train stage 2 again from its second checkpoint, and compare the adapters."""
    assembled.release(place)
    recipe, root = _recipe(place), place.work / "runs"
    shutil.rmtree(root, ignore_errors=True)
    whole = RunDir.create(root / "whole", recipe.model_dump())
    figures: dict[str, Any] = {"memory": [], "speed": []}
    _sft(place, recipe, whole, figures)
    measure.clean()
    figures["left_by_stage_1_mib"] = measure.allocated()
    ppo.train(recipe, whole)
    _ppo(place, recipe, whole, figures)
    resumed = _resumed(recipe, whole, root / "resumed")
    moved = {name: _apart(whole.final("sft"), whole.final("ppo", name)) for name in ADAPTERS}
    apart = {name: _apart(whole.final("ppo", name), resumed.final("ppo", name)) for name in ADAPTERS}
    figures |= {"moved": moved, "resumed_beside_undisturbed": apart}
    allowed = max(moved.values()) if measure.cuda() else 0.0  # to the bit on a CPU, which no card promises
    figures["holds"] = {
        "PPO moves actor and critic": min(moved.values()) > 0,
        "a resumed run ends where an undisturbed one does": max(apart.values()) <= allowed,
    }
    return figures


def _recipe(place: Place) -> Recipe:
    """Return the recipe of a few steps. A random base never writes the form, so that all scores are 0: the bonus on
    entropy is what the actor learns from, and the KL penalty what the critic learns."""
    episodes, reply, batch = place.sized.training
    return place.recipe(
        "sft.epochs=1", f"sft.batch_size={batch}", "sft.save_every=2", "sft.eval_every=100",
        f"data.sft_limit={4 * batch + 2}", f"ppo.total_episodes={UPDATES * episodes}",
        f"ppo.rollout.episodes={episodes}", f"ppo.rollout.max_reply_length={reply}", "ppo.save_every=1",
        "ppo.eval_every=100", "ppo.critic_warmup_updates=0", "ppo.sample_every=1", "ppo.entropy_coef=0.01",
    )  # fmt: skip


def _sft(place: Place, recipe: Recipe, run: RunDir, figures: dict[str, Any]) -> None:
    clock = Clock()
    sft.train(recipe, run, clock)
    steps = [b - a for a, b in itertools.pairwise(clock.times)]
    step = statistics.median(steps)
    tokens = recipe.sft.batch_size * recipe.base.max_length  # the examples are cut to that length
    what = f"{recipe.sft.microbatch_size} rows of {recipe.base.max_length} tokens"
    figures["speed"].append(
        {"phase": "SFT", "what": what, "tokens_per_second": round(tokens / step), "ms": round(step * 1e3)}
    )
    measured = None if clock.peak is None else round(clock.peak)
    figures["memory"].append(
        {"phase": "SFT", "predicted_mib": place.predicted(recipe, "SFT"), "measured_mib": measured}
    )
    figures["sft_losses"] = [round(row["sft/loss"], 4) for row in _rows(run, "sft") if "sft/loss" in row]


def _ppo(place: Place, recipe: Recipe, run: RunDir, figures: dict[str, Any]) -> None:
    """Add the worst memory and the last seconds of each phase of an update."""
    rows = [row for row in _rows(run, "ppo") if row["update"]]
    for phase, predicted in PHASES.items():
        found = [row[f"memory/{phase}_mib"] for row in rows if f"memory/{phase}_mib" in row]
        figures["memory"].append(
            {
                "phase": f"PPO, {predicted}",
                "predicted_mib": place.predicted(recipe, predicted),
                "measured_mib": round(max(found)) if found else None,
            }
        )
        figures[f"{phase}_seconds"] = round(rows[-1][f"time/{phase}_seconds"], 2)
    names = ("policy/gradient_norm", "value/gradient_norm", "policy/approx_kl", "reference/kl_per_token")
    figures["last_update"] = {name: rows[-1].get(name) for name in names}


def _resumed(recipe: Recipe, whole: RunDir, folder: Path) -> RunDir:
    """Return a copy of the run that lost its end, gone on with from the checkpoint before the last."""
    shutil.copytree(whole.path, folder)
    shutil.rmtree(folder / "ppo" / "final")
    shutil.rmtree(sorted((folder / "ppo" / "checkpoints").glob("update-*"))[-1])
    measure.clean()
    resumed = RunDir(folder)
    ppo.train(recipe, resumed)
    return resumed


def _apart(one: Path, other: Path) -> float:
    """Return the largest difference between two saved adapters."""
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def _rows(run: RunDir, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.stage(stage) / "metrics.jsonl").read_text().splitlines()]
