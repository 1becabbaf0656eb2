"""What memory depends on, read from a recipe."""

from __future__ import annotations

from lite_huatuo.planning import models
from lite_huatuo.planning.memory import Numbers
from lite_huatuo.planning.models import Shape
from lite_huatuo.planning.phases import FIXED_ROWS, Settings
from lite_huatuo.recipe import Recipe, VerifierSection

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


def of(recipe: Recipe, shape: Shape, *, gpu: bool, judge: int = 0, rows: int = FIXED_ROWS) -> Settings:
    """Return what memory depends on, as the recipe says it; `judge` is the bytes of a classifier, `rows` what "auto" is
    for replies written at once."""
    section, ppo = recipe.base, recipe.ppo
    dtype = section.compute_dtype
    width = WIDTHS[dtype] if dtype != "auto" else 2 if gpu else 4
    limits = recipe.heldout_arguments(rows)
    return Settings(
        gpu=gpu,
        numbers=Numbers(width, section.quantization, section.double_quantization, section.keep_dequantised),
        lora=models.lora(recipe.adapter.rank, recipe.adapter.targets, dora=recipe.adapter.dora),
        max_length=section.max_length,
        query=recipe.data.max_query_length,
        reply=max(ppo.rollout.max_reply_length, limits["max_reply_length"]),
        sft_rows=recipe.sft.microbatch_size,
        sft_optimizer=recipe.sft.optimizer,
        sft_checkpointing=recipe.sft.gradient_checkpointing,
        autocast=gpu and width == 2,
        episodes=ppo.rollout.episodes,
        minibatches=ppo.minibatches,
        generated=generated(recipe, rows),
        top_p=ppo.rollout.top_p,
        microbatch_tokens=ppo.microbatch_tokens,
        ppo_optimizer=ppo.optimizer,
        ppo_checkpointing=ppo.gradient_checkpointing,
        trunk_layers=None if ppo.critic.trunk == "own" else min(ppo.critic.layers, shape.layers - 1),
        verifiers=len({judge.adapter for judge in judges(recipe) if judge.kind == "adapter"}),
        judge=judge,
    )


def generated(recipe: Recipe, rows: int) -> int:
    """Return the most replies written at once, in a rollout or an evaluation; `rows` is what "auto" is."""
    return max(
        min(recipe.rollout_rows(rows), recipe.ppo.rollout.episodes), recipe.heldout_arguments(rows)["batch_size"]
    )


def judges(recipe: Recipe) -> list[VerifierSection]:
    """Return the recipe's verifiers, members of ensembles too."""
    found: list[VerifierSection] = []
    waiting = [section for section in (recipe.verifier, recipe.ppo.watch.verifier) if section is not None]
    while waiting:
        section = waiting.pop()
        found.append(section)
        waiting += section.members
    return found
