"""Stage 1, one optimizer step looked at closely: what the loss is of; order, padding and cutting do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import BASE, SharedBase
from lite_huatuo.response_format import render
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import sft
from lite_huatuo.training.logprobs import collate
from lite_huatuo.training.rollout import reply_logprobs
from tests import tiny


def examples(files: dict[str, str]) -> list[dict]:
    """Eight examples of very different lengths."""
    rows = [row for _, row in jsonl.iter_rows(Path(files["sft"]))][:8]
    return [{**row, "complex_cot": row["complex_cot"] + " Then wait." * n} for n, row in enumerate(rows)]


def first_step(
    files: dict[str, str], rows: list[dict], folder: Path, microbatch: int, packing: str = "auto"
) -> dict[str, float]:
    """Train one optimizer step on all rows at once and return its metrics."""
    folder.mkdir()
    jsonl.write(folder / "rows.jsonl", rows)
    tree = tiny.short_recipe(files)
    tree["data"].update(sft=str(folder / "rows.jsonl"), sft_limit=None, sft_eval_share=0.0)
    tree["sft"].update(epochs=1.0, batch_size=8, microbatch_size=microbatch, packing=packing, early_checkpoints=[])
    recipe = recipes.check(tree, "one step")
    run = RunDir.create(folder / "run", recipe.model_dump())
    sft.train(recipe, run)
    logged = [row for _, row in jsonl.iter_rows(run.stage("sft") / "metrics.jsonl")]
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
