"""The real base's first minute on a card: one SFT step at the longest examples, one rollout at full batch, one learning
step, with the memory of each beside what `plan` says. A rehearsal on a card ends with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.planning import plan
from lite_huatuo.recipe import Recipe

WORDS = "The patient was seen again on the next day and nothing in the examination had changed. "
SENTENCE_TOKENS = 16  # about; every text is longer than it has to be, and is cut
REPLY = 16  # tokens of a rollout's replies
MIB = 2**20
# phase of `plan` -> (stage, metric, which of its figures count)
MEASURED = {
    "SFT": ("sft", "memory/sft_mib"),
    "rollout": ("ppo", "memory/rollout_mib"),
    "scoring": ("ppo", "memory/scoring_mib"),
    "update": ("ppo", "memory/learning_mib"),
}
BESIDE = ("CUDA context", "fragmentation")  # of `plan`, which PyTorch's counter does not see


def tree(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the recipe of the first minute, its rows written into `folder`: the real base and sizes, few of them."""
    found = recipe.model_dump()
    rollout = found["ppo"]["rollout"]
    episodes = rollout["batch_size"] if isinstance(rollout["batch_size"], int) else rollout["episodes"]
    rows = _write(recipe, folder, episodes)
    found.update(name="first-minute", report_to=[], verifier={"kind": "exact"})
    found["launch"]["processes"] = 1
    found["data"].update(
        sft=str(rows["sft"]), problems=str(rows["problems"]), heldout=str(rows["heldout"]), sft_eval_share=0.0,
        too_long="cut", sft_limit=None, problems_limit=None, heldout_limit=1,
    )  # fmt: skip
    found["sft"].update(batch_size=recipe.sft.microbatch_size, epochs=1.0, save_every=1, eval_every=1, log_every=1)
    found["sft"]["early_checkpoints"] = []
    rollout.update(episodes=episodes, max_reply_length=REPLY)
    found["ppo"].update(
        total_episodes=episodes, minibatches=1, epochs=1, critic_warmup_updates=0, selection_problems=1,
        start_from="final",
    )  # fmt: skip
    found["ppo"]["watch"]["verifier"] = None
    found["eval"].update(max_reply_length=1, benchmarks=[])
    return found


def _write(recipe: Recipe, folder: Path, episodes: int) -> dict[str, Path]:
    """Write rows as long as the recipe allows: examples that are cut to max_length, questions not far from theirs."""
    long = WORDS * math.ceil(2 * recipe.base.max_length / SENTENCE_TOKENS)
    asked = WORDS * max(1, math.floor(0.7 * recipe.data.max_query_length / SENTENCE_TOKENS))

    def problem(number: int) -> dict[str, Any]:
        return {"id": f"long-{number}", "question": f"Case {number}. {asked} What is it?", "ground_truth": "nothing"}

    examples = [
        {"id": f"long-sft-{n}", "question": f"Example {n}?", "complex_cot": long, "response": "Nothing.",
         "provenance": {"origin": "rehearsal"}}
        for n in range(recipe.sft.microbatch_size)
    ]  # fmt: skip
    rows = {
        "sft": examples,
        "problems": [problem(n) for n in range(episodes + 1)],
        "heldout": [problem(-1)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        jsonl.write(path, rows[name])
    return paths


def beside_plan(recipe: Recipe, run: Path) -> list[str]:
    """Return a line for each phase: the most MiB that PyTorch allocated, and what `plan` says without the context."""
    shape, _ = plan.shape_of(recipe)
    predicted = {
        phase.name: sum(size for name, size in phase.parts.items() if name not in BESIDE) / MIB
        for phase in plan.make(recipe, shape, None).phases
    }
    lines = []
    for phase, (stage, metric) in MEASURED.items():
        rows = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text("utf-8").splitlines()]
        seen = [row[metric] for row in rows if metric in row]
        if seen:
            measured = max(seen)
            share = f"{measured / predicted[phase]:.2f} of {predicted[phase]:.0f} MiB by `plan`"
            lines.append(f"{phase}: {measured:.0f} MiB, {share}")
    return lines
