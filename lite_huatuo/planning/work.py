"""What a run does in all: optimizer steps, tokens, calls of a judge, disk. Counts from a recipe's numbers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lite_huatuo.planning import memory
from lite_huatuo.planning.models import Lora, Shape

# Rows of the published SFT sets, as their pages said in 2025; other sets on the Hub are not asked for.
PUBLISHED = {
    "FreedomIntelligence/medical-o1-reasoning-SFT:en": 19_704,
    "FreedomIntelligence/medical-o1-reasoning-SFT:zh": 20_171,
}
PAPER_EXAMPLES = 20_000  # what the paper searched, for a set whose size is not known
QUERY_TOKENS = 150  # a question in its chat template: an estimate
REPLY_TOKENS = 712 + 350  # the paper's mean complex CoT, and a response
WEIGHT_BYTES = 2  # of a published or exported parameter


@dataclass(frozen=True)
class Work:
    """Tokens are expected ones; `most_written` is the bound."""

    sft_steps: int
    sft_tokens: int
    updates: int
    ppo_steps: int
    written: int  # reply tokens, evaluations too
    most_written: int
    scored: int  # tokens of passes without gradients
    learned: int  # tokens of passes with gradients, actor and critic

    @property
    def tokens(self) -> int:
        """All tokens that go through the network."""
        return self.sft_tokens + self.written + self.scored + self.learned

    def hours(self, tokens_per_second: float) -> float:
        """Return the hours at so many tokens a second, whatever is done with them."""
        return self.tokens / tokens_per_second / 3600


def count(
    *,
    examples: int,
    example_tokens: int,
    epochs: float,
    sft_batch: int,
    updates: int,
    per_update: int,
    ppo_epochs: int,
    minibatches: int,
    query: int,
    reply: int,
    max_reply: int,
    evaluated: int,
    recomputed: bool,
) -> Work:
    """Return the work of both stages. `evaluated` replies are written beside the episodes; `recomputed`: the actor
    passes once more over each episode for its log-probabilities. Query and reply are expected tokens."""
    done = updates * per_update
    row = query + reply
    return Work(
        sft_steps=math.ceil(math.ceil(examples / sft_batch) * epochs),
        sft_tokens=round(examples * epochs * example_tokens),
        updates=updates,
        ppo_steps=updates * ppo_epochs * minibatches,
        written=(done + evaluated) * reply,
        most_written=(done + evaluated) * max_reply,
        scored=done * row * (3 if recomputed else 2),
        learned=done * row * 2 * ppo_epochs,
    )


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk, by what they are for."""

    download: int
    checkpoints: int
    export: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.download + self.checkpoints + self.export


def disk(
    shape: Shape,
    lora: Lora,
    *,
    sft_optimizer: str,
    sft_kept: int,
    ppo_optimizer: str,
    ppo_kept: int,
    trunk_layers: int | None,
    export_bytes: int,
) -> Disk:
    """Return what base, checkpoints and export take. One checkpoint more than `kept` stands while it is written; PPO
    keeps its best policy, its final one and the last one without a warning beside them."""
    one = memory.adapter(lora, shape)
    sft = (sft_kept + 2) * (one + memory.optimizer(sft_optimizer, lora, shape)) + one
    states = memory.optimizer(ppo_optimizer, lora, shape)
    states += memory.optimizer(ppo_optimizer, lora, shape, trunk_layers)
    ppo = (ppo_kept + 2) * (2 * one + states) + 2 * one + 3 * one
    return Disk(WEIGHT_BYTES * shape.parameters, sft + ppo, export_bytes * shape.parameters)
