"""What `plan` counts of a recipe's work: its examples, tokens and disk."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lite_huatuo.planning.plan import Plan
    from lite_huatuo.planning.work import Disk, Work
    from lite_huatuo.recipe import Recipe

EXPORT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def examples(recipe: Recipe) -> tuple[int, int, str]:
    """Return (SFT examples, tokens of one with its query, a note where they are not counted from the data).

    Files are read; the Hub is not asked, and its sets' sizes are those published or, unknown, the paper's.
    """
    from lite_huatuo.data import sources
    from lite_huatuo.planning import work
    from lite_huatuo.planning.cost import count_tokens
    from lite_huatuo.response_format import render

    data, longest = recipe.data, recipe.base.max_length
    typical = min(work.QUERY_TOKENS + work.REPLY_TOKENS, longest)
    if data.sft.startswith(sources.SHIPPED) or data.sft.endswith((".json", ".jsonl", ".csv")):
        found = sources.load_sft(data.sft, limit=data.sft_limit, seed=data.seed)
        lengths = [
            min(longest, count_tokens(row.question) + count_tokens(render(row.complex_cot, row.response)))
            for row in found
        ]
        return round(len(found) * (1 - data.sft_eval_share)), round(statistics.fmean(lengths)), ""
    known = work.PUBLISHED.get(data.sft)
    count = min(known or work.PAPER_EXAMPLES, data.sft_limit or 10**9)
    how = f"{known:,} rows as published" if known else f"{work.PAPER_EXAMPLES:,} rows assumed, as in the paper"
    note = f"data.sft was not read: {how}, of {typical:,} tokens (the paper's mean)"
    return round(count * (1 - data.sft_eval_share)), typical, note


def work(recipe: Recipe, plan: Plan, count: int, example_tokens: int) -> Work:
    """Return the work of both stages; replies are as long as SFT examples' where the limit lets them."""
    from lite_huatuo.planning import work as works

    ppo = recipe.ppo
    reply = min(ppo.rollout.max_reply_length, max(1, example_tokens - min(works.QUERY_TOKENS, example_tokens // 3)))
    evaluations = 1 + ppo.updates // ppo.eval_every
    heldout = recipe.data.heldout_limit or 0
    sampled = ppo.rollout.logprobs == "sampled" or (ppo.rollout.logprobs == "auto" and plan.settings.numbers.width == 4)
    return works.count(
        examples=count,
        example_tokens=example_tokens,
        epochs=recipe.sft.epochs,
        sft_batch=recipe.sft.batch_size,
        updates=ppo.updates,
        per_update=ppo.rollout.episodes,
        ppo_epochs=ppo.epochs,
        minibatches=ppo.minibatches,
        query=min(works.QUERY_TOKENS, recipe.data.max_query_length),
        reply=reply,
        max_reply=ppo.rollout.max_reply_length,
        evaluated=evaluations * ppo.selection_problems + 3 * heldout,
        recomputed=not sampled,
    )


def disk(recipe: Recipe, plan: Plan) -> Disk:
    """Return what download, checkpoints and export take on the disk."""
    from lite_huatuo.planning import work as works

    return works.disk(
        plan.shape,
        plan.settings.lora,
        sft_optimizer=recipe.sft.optimizer,
        sft_kept=recipe.sft.keep_checkpoints,
        ppo_optimizer=recipe.ppo.optimizer,
        ppo_kept=recipe.ppo.keep_checkpoints,
        trunk_layers=plan.settings.trunk_layers,
        export_bytes=EXPORT_BYTES[recipe.export.dtype],
    )
