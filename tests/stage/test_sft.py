"""Stage 1, one optimizer step looked at closely: what the loss is of; order, padding and cutting do not matter."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import trl
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig
from trl import SFTConfig

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import BASE, SharedBase
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.response_format import render
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import sft
from lite_huatuo.training.logprobs import collate
from lite_huatuo.training.rollout import reply_logprobs
from lite_huatuo.training.sft_trainer import SharingTrainer
from tests import tiny


def examples(files: dict[str, str]) -> list[dict]:
    """Eight examples of very different lengths."""
    rows = [row for _, row in jsonl.iter_rows(Path(files["sft"]))][:8]
    return [{**row, "complex_cot": row["complex_cot"] + " Then wait." * n} for n, row in enumerate(rows)]


def steps(
    files: dict[str, str], rows: list[dict], folder: Path, microbatch: int, packing: str = "auto", batch: int = 8
) -> list[dict[str, float]]:
    """Train one epoch and return the metrics of its steps."""
    folder.mkdir()
    jsonl.write(folder / "rows.jsonl", rows)
    tree = tiny.short_recipe(files)
    tree["data"].update(sft=str(folder / "rows.jsonl"), sft_limit=None, sft_eval_share=0.0)
    tree["sft"].update(epochs=1.0, batch_size=batch, microbatch_size=microbatch, packing=packing, early_checkpoints=[])
    recipe = recipes.check(tree, "one epoch")
    run = RunDir.create(folder / "run", recipe.model_dump())
    sft.train(recipe, run)
    return [row for _, row in jsonl.iter_rows(run.stage("sft") / "metrics.jsonl")]


def first_step(
    files: dict[str, str], rows: list[dict], folder: Path, microbatch: int, packing: str = "auto"
) -> dict[str, float]:
    """Train one optimizer step on all rows at once and return its metrics."""
    logged = steps(files, rows, folder, microbatch, packing)
    assert len(logged) == 1
    return logged[0]


@pytest.fixture(scope="module")
def whole(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return first_step(toy, examples(toy), tmp_path_factory.mktemp("sft") / "whole", 8)


def same(one: dict[str, float], other: dict[str, float]) -> None:
    for name in ("sft/loss", "sft/gradient_norm"):
        assert other[name] == pytest.approx(one[name], rel=1e-5), name


def test_the_order_of_examples_does_not_matter(toy: dict[str, str], whole: dict[str, float], tmp_path: Path) -> None:
    same(whole, first_step(toy, list(reversed(examples(toy))), tmp_path / "reversed", 8))


class Logits(TorchDispatchMode):
    """Notes how many rows of numbers, one for each word, any operation has made."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.rows = words, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.ndim and made.shape[-1] == self.words and made.is_floating_point():
            self.rows = max(self.rows, made.numel() // self.words)
        return made


def test_few_tokens_logits_are_there_at_once(toy: dict[str, str], tmp_path: Path) -> None:
    """On a CPU TRL's fused head would take all tokens of a pass at once, in eight float32 copies."""
    rows = examples(toy)
    words = backends.load(toy["model"]).tokenizer
    tokens = sum(len(words.reply(render(row["complex_cot"], row["response"]))) for row in rows)
    assert tokens > 256, "as many as it may take at once"
    with Logits(AutoConfig.from_pretrained(toy["model"]).vocab_size) as seen:
        first_step(toy, rows, tmp_path / "whole", 8)
    assert 0 < seen.rows <= 256


@pytest.mark.parametrize("microbatch", [1, 2])
def test_microbatches_do_not_matter(
    toy: dict[str, str], whole: dict[str, float], tmp_path: Path, microbatch: int
) -> None:
    same(whole, first_step(toy, examples(toy), tmp_path / "cut", microbatch))


@pytest.mark.parametrize("packing", ["off", "on"])
def test_padded_and_filled_up_rows_give_the_same(
    toy: dict[str, str], whole: dict[str, float], tmp_path: Path, packing: str
) -> None:
    same(whole, first_step(toy, examples(toy), tmp_path / "other", 8, packing))


def arguments(monkeypatch: pytest.MonkeyPatch, **others: object) -> None:
    """Have the trainer get other arguments than a CPU would have."""
    monkeypatch.setattr(trl, "SFTConfig", lambda **made: SFTConfig(**{**made, **others}))


def test_how_many_cards_one_process_sees_does_not_matter(
    toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = steps(toy, examples(toy), tmp_path / "alone", 2, batch=4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments(monkeypatch, use_cpu=False)
    beside_others = steps(toy, examples(toy), tmp_path / "beside others", 2, batch=4)
    assert len(alone) == len(beside_others) == 2
    for one, other in zip(alone, beside_others, strict=True):
        same(one, other)


def shared_steps(monkeypatch: pytest.MonkeyPatch, trainer: type[SharingTrainer], processes: Processes) -> None:
    """Have stage 1 use the trainer of several processes."""
    made = partial(trainer, processes=processes, batch_size=8, pad_id=0)
    monkeypatch.setattr(sft, "_trainer", lambda *_: made)


@pytest.mark.parametrize("several", [False, True])
def test_one_process_and_several_run_forward_in_mixed_precision(
    toy: dict[str, str], whole: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    seen, fresh = [], SharedBase.fresh

    def watched(*args: object, **kwargs: object) -> SharedBase:
        shared = fresh(*args, **kwargs)
        shared.body.layers[0].mlp.register_forward_pre_hook(
            lambda module, _: seen.append(torch.is_autocast_enabled("cpu")) if module.training else None
        )
        return shared

    monkeypatch.setattr(SharedBase, "fresh", watched)
    arguments(monkeypatch, bf16=True)
    if several:
        shared_steps(monkeypatch, SharingTrainer, ALONE)
    figures = first_step(toy, examples(toy), tmp_path / "run", 4)
    assert seen == [True, True]
    assert figures["sft/loss"] == pytest.approx(whole["sft/loss"], rel=1e-2)
    assert figures["sft/loss"] != pytest.approx(whole["sft/loss"], rel=1e-6), "bfloat16 rounds"


class Half(SharingTrainer):
    """As on a card in float16: autocast, and losses scaled by 1,024 so that gradients are not too small for it."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.state._mixed_precision, self.accelerator.native_amp = "fp16", True
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)


class Watched(Processes):
    """One process that keeps the norm of what it would exchange."""

    norms: ClassVar[list[float]] = []

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter], *, scale: float = 1.0) -> None:
        self.norms.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item())


def test_processes_in_float16_exchange_scaled_gradients_before_they_are_unscaled_and_clipped(
    toy: dict[str, str], whole: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_steps(monkeypatch, Half, Watched())
    figures = first_step(toy, examples(toy), tmp_path / "run", 4)
    assert figures["sft/gradient_norm"] == pytest.approx(whole["sft/gradient_norm"], rel=2e-2)
    assert Watched.norms == [pytest.approx(1024 * figures["sft/gradient_norm"], rel=1e-4)]  # once, after the last part
    assert figures["sft/skipped_steps"] == 0


def test_no_padding_goes_through_the_network(
    toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, fresh = [], SharedBase.fresh

    def watched(*args: object, **kwargs: object) -> SharedBase:
        shared = fresh(*args, **kwargs)
        first = shared.body.layers[0].mlp
        first.register_forward_pre_hook(
            lambda module, args: tokens.append(args[0].shape[:2].numel()) if module.training else None
        )
        return shared

    monkeypatch.setattr(SharedBase, "fresh", watched)
    first_step(toy, examples(toy), tmp_path / "watched", 4)
    words = backends.load(toy["model"]).tokenizer
    real = sum(
        len(words.query(row["question"])) + len(words.reply(render(row["complex_cot"], row["response"])))
        for row in examples(toy)
    )
    assert len(tokens) == 2
    assert sum(tokens) == real


def test_the_loss_is_that_of_reply_tokens_alone(toy: dict[str, str], whole: dict[str, float]) -> None:
    loaded = backends.load(toy["model"])
    words, rows = loaded.tokenizer, examples(toy)
    shared = SharedBase.fresh(loaded, "actor", rank=4, alpha=4, targets="all-linear")
    batch = collate(
        [words.query(row["question"]) for row in rows],
        [words.reply(render(row["complex_cot"], row["response"])) for row in rows],
        width=96,
        device="cpu",
    )
    with shared.using(BASE), torch.no_grad():
        logprobs, _ = reply_logprobs(shared, batch, temperature=1.0)
    assert whole["sft/loss"] == pytest.approx(-logprobs[batch.reply_mask].mean().item(), rel=1e-4)
