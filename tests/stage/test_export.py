"""The exported model is the trained one: loaded back by transformers alone, compared by its logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lite_huatuo.errors import ExportError
from lite_huatuo.export import merge, parity
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir


def export(toy_run: RunDir, to: Path, onto: str, dtype: str) -> dict:
    return merge.export(
        toy_run.actor(), to, base=toy_run.recipe()["base"], onto=onto, dtype=dtype, max_shard_size="1GB"
    )


@torch.no_grad()
def logits(model: object, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits.float()  # type: ignore[operator]


def test_trained_promise_is_the_trained_model_exactly(toy_run: RunDir, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    figures = export(toy_run, tmp_path / "model", "trained", "float32")
    assert figures["kl_to_trained"] < 1e-6
    shared = SharedBase.from_adapters(backends.load(**toy_run.recipe()["base"]), {"actor": toy_run.actor()}, ())
    ids = shared.tokenizer.query("Patient 301 has rash. Which cure?")
    with shared.using("actor"):
        expected = logits(shared.causal, ids)
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32), ids)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_base_promise_is_the_original_base_plus_the_adapter(
    toy_run: RunDir, toy: dict[str, str], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures = export(toy_run, tmp_path / "model", "base", "bfloat16")
    assert figures["kl_to_unmerged"] < parity.TOLERANCE["bfloat16"]
    assert figures["kl_to_trained"] > figures["kl_to_unmerged"], "the base was quantised for training"
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert stored.dtype == torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
    unmerged = PeftModel.from_pretrained(base, toy_run.actor())
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("Patient 301 has rash.")["input_ids"]
    torch.testing.assert_close(logits(stored.float(), ids), logits(unmerged, ids), rtol=0.1, atol=0.3)


def test_what_stands_beside_the_weights(toy_run: RunDir, tmp_path: Path) -> None:
    export(toy_run, tmp_path / "model", "base", "bfloat16")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "export.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())


def test_an_existing_folder_is_refused(toy_run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="already exists"):
        export(toy_run, tmp_path, "base", "bfloat16")


def test_a_result_that_differs_is_refused_and_nothing_is_left(
    toy_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCE, "bfloat16", 0.0)
    with pytest.raises(ExportError, match="differs from base"):
        export(toy_run, tmp_path / "model", "base", "bfloat16")
    assert list(tmp_path.iterdir()) == []
