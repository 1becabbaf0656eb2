"""The recipe of a rehearsal: the user's, with the twin as base and everything counted in small numbers.

What decides which code runs stays: optimizers, precision, checkpointing, packing, critic, warm-up, watch, adapter form,
algorithm, quantization, attention, export. Lengths, numbers of examples and intervals shrink, so that each of save,
evaluate and sample happens at least twice in each stage.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo.data.sources import SHIPPED
from lite_huatuo.recipe import Recipe
from lite_huatuo.rehearsal.data import HELDOUT

SFT_STEPS_AN_EPOCH, EPISODES, UPDATES = 2, 4, 4  # updates in which the actor learns
REPLY = 32  # tokens; a taught twin's reply has about 20
WARMUP, INTERVAL = 1, 2  # most warm-up updates; updates or steps between saves
SELECTION, PROBLEMS = 3, 24
EVAL_SHARE = 0.25
CRITIC_LAYERS = 1  # of the twin's three; the others are the trunk
UNLIMITED = 10**6


@dataclass(frozen=True)
class Short:
    """A rehearsal's recipe tree, and in words what stands in for something of the user's recipe."""

    tree: dict[str, Any]
    stand_ins: list[str]


def shorten(
    recipe: Recipe, *, twin: Path, rows: Mapping[str, Path], verifier: Mapping[str, Any], on: str, processes: int
) -> Short:
    """Return the rehearsal's recipe. `rows` are files of {sft, problems, heldout} that stand in for data sets on the
    Hub, `verifier` is what judges (rehearsal.judges); `on` is cpu or cuda."""
    tree = recipe.model_dump()
    notes: list[str] = []
    tree["name"] = "rehearsal"
    tree["verifier"] = dict(verifier)
    tree["report_to"] = []
    _base(tree["base"], twin, on, notes)
    _data(tree["data"], rows, notes)
    examples = _sft(tree["sft"], processes)
    tree["data"]["sft_limit"] = math.ceil(examples / (1 - EVAL_SHARE)) + 1
    tree["data"]["sft_eval_share"] = EVAL_SHARE if recipe.data.sft_eval_share else 0.0
    _ppo(tree["ppo"], processes, on, notes)
    tree["eval"].update(max_reply_length=None, benchmarks=[])
    if isinstance(tree["eval"]["batch_size"], int):
        tree["eval"]["batch_size"] = min(tree["eval"]["batch_size"], HELDOUT)
    tree["export"]["repo"] = None
    tree["launch"]["processes"] = processes
    if processes != recipe.launch.processes:
        notes.append(f"launch.processes: {processes} of {recipe.launch.processes}")
    return Short(tree, notes)


def _base(base: dict[str, Any], twin: Path, on: str, notes: list[str]) -> None:
    base.update(model=str(twin), fallback=None, revision=None, chat_template=None)
    if on == "cpu":
        for_cards = not base["keep_dequantised"] and base["compute_dtype"] == "auto"
        if for_cards:  # what the recipe takes on a card; "auto" would be float32 here
            base["compute_dtype"] = "bfloat16"
        if base["backend"] == "unsloth":
            notes.append("base.backend: plain for unsloth, which needs a card")
            base["backend"] = "plain"
        if base["attention"] == "flash_attention_2":
            notes.append("base.attention: sdpa for flash_attention_2, which needs a card")
            base["attention"] = "sdpa"


def _data(data: dict[str, Any], rows: Mapping[str, Path], notes: list[str]) -> None:
    """Read the user's own files as they are; a few rows stand in for data sets on the Hub and for what is shipped."""
    for key, path in rows.items():
        source = data[key]
        if source is None or is_own(source):
            continue
        data[key] = str(path)
        if not source.startswith(SHIPPED):
            notes.append(f"data.{key}: a few rows for {source}")
    data.update(problems_limit=PROBLEMS, heldout_limit=HELDOUT, heldout_share=max(data["heldout_share"], 0.2))


def is_own(source: str) -> bool:
    """Tell whether a source is a file of the user's."""
    return Path(os.path.expanduser(source)).exists() or source.startswith((".", "/", "~"))


def language_of(recipe: Recipe) -> str:
    """Return zh for a recipe whose data sources say so, else en."""
    sources = (recipe.data.sft, recipe.data.problems, recipe.data.heldout or "")
    return "zh" if any(source.endswith((":zh", "_zh")) for source in sources) else "en"


def _sft(sft: dict[str, Any], processes: int) -> int:
    """Shrink stage 1; return its examples: two optimizer steps an epoch, each of two microbatches a process."""
    sft["batch_size"] = 2 * sft["microbatch_size"] * processes
    sft["epochs"] = min(3.0, max(2.0, sft["epochs"]))
    sft.update(log_every=1, eval_every=INTERVAL, save_every=INTERVAL)
    sft["early_checkpoints"] = [INTERVAL] if sft["early_checkpoints"] else []
    return SFT_STEPS_AN_EPOCH * sft["batch_size"]


def _ppo(ppo: dict[str, Any], processes: int, on: str, notes: list[str]) -> None:
    """Shrink stage 2."""
    if ppo["minibatches"] > EPISODES:
        ppo["minibatches"] = EPISODES
    each = math.lcm(ppo["minibatches"], processes)
    episodes = each * math.ceil(EPISODES / each)
    ppo["critic_warmup_updates"] = min(WARMUP, ppo["critic_warmup_updates"])
    ppo["total_episodes"] = (UPDATES + ppo["critic_warmup_updates"]) * episodes
    rollout = ppo["rollout"]
    rollout.update(episodes=episodes, max_reply_length=REPLY)
    if isinstance(rollout["batch_size"], int):
        rollout["batch_size"] = max(2, min(rollout["batch_size"], episodes // 2))  # a row that ends makes room
    if on == "cpu" and rollout["engine"] == "vllm":
        notes.append("ppo.rollout.engine: the base itself for vllm, which needs a card")
        rollout["engine"] = "auto"
    ppo["critic"]["layers"] = min(CRITIC_LAYERS, ppo["critic"]["layers"])
    if ppo["start_from"] != "final":
        ppo["start_from"] = f"early/step-{INTERVAL:06d}"
    ppo.update(selection_problems=min(SELECTION, ppo["selection_problems"]), samples=2)
    ppo.update(eval_every=INTERVAL, save_every=INTERVAL, sample_every=INTERVAL)
    ppo["watch"].update(patience=UNLIMITED)  # it watches and warns; a twin's replies are no reason to stop
    if ppo["watch"]["verifier"] is not None:
        ppo["watch"]["verifier"] = {"kind": "exact"}
        notes.append("ppo.watch.verifier: exact")
