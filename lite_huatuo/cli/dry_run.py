"""`train --dry-run`: what would happen, from the recipe, the data and the tokenizer alone."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lite_huatuo.cli import terminal
from lite_huatuo.errors import BackendError
from lite_huatuo.recipe import Base, Recipe

if TYPE_CHECKING:
    from lite_huatuo.models.tokenizer import StudentTokenizer
    from lite_huatuo.records import SFTExample


def show(recipe: Recipe, path: Path) -> None:
    """Print the resolved recipe, devices, steps and token counts."""
    from lite_huatuo.cli.train import quiet_libraries

    quiet_libraries()
    from lite_huatuo.models import backends
    from lite_huatuo.training import preflight, sft_data

    data = preflight.check(recipe)
    base, sft, ppo = recipe.base, recipe.sft, recipe.ppo
    words = _tokenizer(base)
    rows = sft_data.tokenise(
        data.sft,
        words,
        max_length=base.max_length,
        max_query_length=recipe.data.max_query_length,
        too_long=recipe.data.too_long,
        eval_share=recipe.data.sft_eval_share,
        seed=recipe.data.seed,
    )
    tokens = sum(len(row["input_ids"]) for row in rows.train)
    reply_tokens = sum(sum(row["completion_mask"]) for row in rows.train)
    queries = [len(words.query(problem.question)) for problem in data.problems]
    steps = math.ceil(math.ceil(len(rows.train) / sft.batch_size) * sft.epochs)
    updates, episodes = ppo.updates, ppo.rollout.episodes
    terminal.say(yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True))
    backend, dtype = backends.choose(base.backend), backends.torch_dtype(base.compute_dtype)
    table = {
        "run folder": f"{path}{' (exists)' if path.exists() else ''}",
        "device": f"{_device()}, backend {backend}, compute dtype {dtype}",
        "held out": f"{len(data.heldout)} problems, answered three times (base, SFT, SFT + PPO)",
        "stage 1": f"{len(rows.train)} examples, {len(rows.evaluation)} more for the evaluation loss ({rows.cut} cut, "
        f"{rows.dropped} dropped as too long, {data.removed} removed as held out)",
        "": f"{steps} optimizer steps of {sft.batch_size} examples; {tokens:,} tokens an epoch, "
        f"{reply_tokens:,} of them replies",
        "stage 2": f"{len(data.problems)} problems, {len(data.selection)} more to choose the best checkpoint; "
        f"queries of {min(queries)} to {max(queries)} tokens, median {statistics.median(queries):.0f}",
        " ": f"{updates} updates of {episodes} episodes: {updates * ppo.epochs * ppo.minibatches} optimizer steps, "
        f"at most {updates * episodes * ppo.rollout.max_reply_length:,} reply tokens",
    }
    if marked := _marked(data.sft):
        table["  "] = marked
    for label, text in table.items():
        terminal.say(f"{label:<12} {text}")


def _marked(examples: Sequence[SFTExample]) -> str:
    """Return how many examples hold thinking marks, by mark; "" where none does."""
    from lite_huatuo import thinking_marks

    marks = Counter(
        mark for one in examples if (mark := thinking_marks.seen(one.complex_cot) or thinking_marks.seen(one.response))
    )
    if not marks:
        return ""
    named = ", ".join(f"{mark} {count:,}" for mark, count in marks.most_common(5))
    return f"{marks.total():,} of {len(examples):,} examples hold thinking marks that a student would learn: {named}"


def _tokenizer(base: Base) -> StudentTokenizer:
    """Return the base's tokenizer; BackendError where there is none to be had."""
    from lite_huatuo.models import gguf, tokenizer

    folder = gguf.resolve(base.model, base.fallback)
    try:
        return tokenizer.load(folder, revision=base.revision, chat_template=base.chat_template)
    except (OSError, ValueError) as error:  # as transformers tells it, often with a page below
        first = str(error).strip().split("\n")[0]
        raise BackendError(f"base.model: {base.model}: cannot be loaded: {first}") from None


def _device() -> str:
    """Return the device training would use."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU ({torch.get_num_threads()} threads)"
