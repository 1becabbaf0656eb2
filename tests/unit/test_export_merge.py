"""The streaming merge against peft: every form of LoRA that is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, merge
from lite_huatuo.export.adapter_file import AdapterFile, Lora
from tests.tiny import make_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
ATTENTION = ["q_proj", "v_proj"]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "patterns": {
        "target_modules": ATTENTION,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"v_proj": 32},
    },
    "biases": {"target_modules": ATTENTION, "bias": "lora_only"},
    "head": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]},
    "lora on both ends": {"target_modules": ["embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Qwen2 in bfloat16, tied and not, in several shards, with a tokenizer."""
    folders = {}
    tokenizer = make_tokenizer(["fever and rash"], 300)
    for name in ("tied", "free"):
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=name == "tied",
            eos_token_id=1,
            pad_token_id=0,
            initializer_range=0.2,
        )
        folders[name] = tmp_path_factory.mktemp("bases") / name
        model = Qwen2ForCausalLM(config)
        for parameter in model.parameters():  # biases start as zeros
            torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim == 1 else None
        model.to(torch.bfloat16).save_pretrained(folders[name], max_shard_size="30KB")
        tokenizer.save_pretrained(folders[name])
    return folders


def adapted(base: Path, folder: Path, **form: Any) -> PeftModel:
    """Save a random adapter of this form into `folder`; return the unmerged model, float32."""
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **form))
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model.eval()


def export(base: Path, adapter: Path, to: Path, dtype: str = "float32", onto: str = "base", **more: Any) -> dict:
    settings = {"model": str(base), "quantization": "nf4", "double_quantization": True}
    return merge.export(
        adapter, to, base=settings, onto=onto, dtype=dtype, max_shard_size="20KB", **{"logits": False, **more}
    )


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits.float()


@pytest.mark.parametrize("tied", ["tied", "free"])
@pytest.mark.parametrize("form", FORMS)
def test_merged_answers_as_unmerged(bases: dict[str, Path], tmp_path: Path, form: str, tied: str) -> None:
    unmerged = adapted(bases[tied], tmp_path / "adapter", **FORMS[form])
    figures = export(bases[tied], tmp_path / "adapter", tmp_path / "model")
    assert figures["worst_tensor_error"] < 0.5
    stored, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(stored), logits(unmerged), rtol=1e-4, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(bases[tied], dtype=torch.float32)
    assert (logits(stored) - logits(base)).abs().max() > 0.01, "the adapter changes something"


def test_sums_are_rounded_once(bases: dict[str, Path], tmp_path: Path) -> None:
    model = adapted(bases["free"], tmp_path / "adapter", target_modules="all-linear")
    export(bases["free"], tmp_path / "adapter", tmp_path / "model", "bfloat16")
    merged = model.merge_and_unload().state_dict()
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    for name, tensor in merged.items():
        differ = (stored[name] != tensor.to(torch.bfloat16)).float().mean()
        assert differ < 0.01, f"{name}: {differ:.1%} of its weights were not rounded once from float32"


def test_trained_promise_has_the_loaders_weights_to_the_bit(bases: dict[str, Path], tmp_path: Path) -> None:
    from lite_huatuo.models import backends

    adapted(bases["free"], tmp_path / "adapter", target_modules=["q_proj"])
    export(bases["free"], tmp_path / "adapter", tmp_path / "model", onto="trained")
    loaded = backends.load(str(bases["free"]), compute_dtype="float32", backend="plain")
    wanted = loaded.model.dequantize().state_dict()
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    original = AutoModelForCausalLM.from_pretrained(bases["free"], dtype=torch.float32).state_dict()
    changed = set()
    for name, tensor in wanted.items():
        if "q_proj.weight" not in name:
            assert torch.equal(stored[name], tensor.float()), name
            changed |= {name} if not torch.equal(stored[name], original[name]) else set()
    assert len(changed) == 12, "six linear layers of two blocks, beside q_proj"


def test_a_wrong_merge_is_refused_by_the_name_of_its_tensor(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(bases["free"], tmp_path / "adapter", target_modules="all-linear")
    right = Lora.merged
    monkeypatch.setattr(Lora, "merged", lambda self, rows, start: right(self, rows, start) + 0.05 * self.b[0, 0])
    for onto in ("base", "trained"):
        with pytest.raises(ExportError, match=r"proj\.weight: the exported tensor is not what base \+ adapter gives"):
            export(bases["free"], tmp_path / "adapter", tmp_path / "model", "bfloat16", onto)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_weight_that_was_not_rounded_as_told_is_refused(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(bases["free"], tmp_path / "adapter", target_modules=["q_proj"])
    right = merge.pieces

    def wrong(name: str, *rest: Any):  # type: ignore[no-untyped-def]
        for piece in right(name, *rest):
            yield piece * 1.01 if name == "model.norm.weight" else piece

    monkeypatch.setattr(merge, "pieces", wrong)
    with pytest.raises(ExportError, match=r"^model\.norm\.weight: "):
        export(bases["free"], tmp_path / "adapter", tmp_path / "model", "bfloat16")


def test_values_beyond_float16_say_so(bases: dict[str, Path], tmp_path: Path) -> None:
    model = adapted(bases["free"], tmp_path / "adapter", target_modules=["q_proj"])
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.mul_(2000)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ExportError, match=r"q_proj\.weight.*float16 cannot hold its values; export with --dtype"):
        export(bases["free"], tmp_path / "adapter", tmp_path / "model", "float16")


def test_pieces_of_any_height_give_the_same(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(bases["tied"], tmp_path / "adapter", **FORMS["dora"])
    export(bases["tied"], tmp_path / "adapter", tmp_path / "whole")
    monkeypatch.setattr(base_files, "CHUNK", 100)
    export(bases["tied"], tmp_path / "adapter", tmp_path / "cut")
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "IA3: merging such an adapter is not known"),
        ({"lora_bias": True}, "lora_bias: merging such an adapter is not known"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    bases: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    adapted(bases["free"], tmp_path / "adapter", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ExportError, match=message):
        AdapterFile(tmp_path / "adapter")


def test_another_base_is_told_by_its_missing_tensor(bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(bases["free"], tmp_path / "adapter", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key.replace("layers.1", "layers.7"): tensor for key, tensor in load_file(path).items()}, path)
    with pytest.raises(ExportError, match=r"layers\.7\.self_attn\.q_proj\.weight: the adapter changes it, but"):
        export(bases["free"], tmp_path / "adapter", tmp_path / "model")
