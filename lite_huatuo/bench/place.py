"""Where a bench works and at which size: folders, the recipe, what `plan` predicts for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo import recipe as recipes
from lite_huatuo.bench import measure
from lite_huatuo.planning import plan
from lite_huatuo.planning.cards import CPU, Card
from lite_huatuo.recipe import Recipe
from lite_huatuo.training.ppo_stage import Stage

MIB = 2**20
RECIPE = "qwen7b"
# Parts of `plan` that the allocator of PyTorch does not count.
BESIDE = ("CUDA context", "fragmentation")
SHORT = ("base.max_length=128", "data.max_query_length=100", "ppo.rollout.max_reply_length=24")


@dataclass(frozen=True)
class Size:
    """A base of Qwen2's architecture, and how much work a check gives it.

    `rows`: replies written at once. `steps`: tokens of each. `episodes`: in a pass of scoring and learning. `training`:
    (episodes of an update, tokens of a reply, examples of an SFT step). `overrides`: changes to the recipe.
    """

    shape: dict[str, Any]
    rows: tuple[int, ...] = (8, 32, 128)
    steps: int = 24
    episodes: tuple[int, ...] = (2, 8)
    training: tuple[int, int, int] = (16, 96, 16)
    overrides: tuple[str, ...] = ()


def _shape(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> Any:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
    }  # fmt: skip


SIZES = {
    "7b": Size(_shape(3584, 18944, 28, 28, 4, 152064, False)),  # Qwen2.5-7B
    "1.5b": Size(_shape(1536, 8960, 28, 12, 2, 151936, True)),  # Qwen2.5-1.5B
    "tiny": Size(_shape(64, 128, 2, 4, 2, 4096, False), (2, 4), 8, (2,), (4, 12, 4), SHORT),
}


@dataclass
class Place:
    """One bench. `work` holds the base, data and runs and may be deleted; `to` is where results go. `stage`: what
    several checks work with, assembled once."""

    size: str
    work: Path
    to: Path
    stage: Stage | None = None

    @property
    def sized(self) -> Size:
        """The size in numbers."""
        return SIZES[self.size]

    @property
    def base(self) -> Path:
        """The folder of the random base; `whole` in it says that it is complete."""
        return self.work / "base"

    @property
    def start(self) -> Path:
        """The folder of the adapter that every check starts from."""
        return self.work / "adapters" / "start"

    def recipe(self, *more: str) -> Recipe:
        """Return the recipe on the random base: its settings as they are, without what a random base cannot do."""
        data = self.work / "data"
        return recipes.load(
            RECIPE,
            (
                f"base.model={self.base}", "base.backend=plain", f"data.sft={data / 'sft.jsonl'}",
                f"data.problems={data / 'problems.jsonl'}", f"data.heldout={data / 'heldout.jsonl'}",
                "data.sft_eval_share=0.02", "data.too_long=cut", "eval.max_reply_length=16", "eval.batch_size=4",
                "ppo.selection_problems=2", "ppo.select_best=false", "ppo.watch.no_form_share=null",
                "ppo.watch.repetition=null", *self.sized.overrides, *more,
            ),
        )  # fmt: skip

    def predicted(self, recipe: Recipe, phase: str, *, without: tuple[str, ...] = ()) -> int:
        """Return what `plan` says of a phase, in MiB, as it is measured here.

        On a card that is what PyTorch allocates, on a CPU the memory of the process. `without`: parts that are not
        there when it is measured.
        """
        shape, _ = plan.shape_of(recipe)
        made = plan.make(recipe, shape, None if measure.cuda() else Card(CPU, 2**62, gpu=False))
        parts = next(each for each in made.phases if each.name == phase).parts
        left_out = (*without, *(BESIDE if measure.cuda() else ()))
        return round(sum(size for name, size in parts.items() if name not in left_out) / MIB)
