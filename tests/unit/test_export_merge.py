"""The streaming merge against peft: every form of LoRA that is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, merge
from lite_huatuo.export.adapter_file import AdapterFile, Lora
from lite_huatuo.export.plan import Made
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


def wide(folder: Path) -> Path:
    """Save a network with a layer as wide as those of large models, and a head of many rows, in bfloat16."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20_000, hidden_size=32, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer(["fever and rash"], 300).save_pretrained(folder)
    return folder


def adapted(base: Path, folder: Path, *, std: float = 0.2, **form: Any) -> PeftModel:
    """Save a random adapter of this form into `folder`, B of this size; return the unmerged model, float32."""
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **form))
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=std if "lora_B" in name or "embedding_B" in name else 0.2)
        elif parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model.eval()


def export(
    base: Path,
    adapter: Path,
    to: Path,
    dtype: str = "float32",
    onto: str = "base",
    compute_dtype: str = "float32",
    **more: Any,
) -> dict:
    settings = {"model": str(base), "quantization": "nf4", "compute_dtype": compute_dtype}
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
    export(bases[tied], tmp_path / "adapter", tmp_path / "model")
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


@pytest.mark.parametrize("computed_in", ["float32", "bfloat16", "float16"])
def test_trained_promise_has_the_loaders_weights_to_the_bit(
    bases: dict[str, Path], tmp_path: Path, computed_in: str
) -> None:
    """Of a base that is stored finer than it is computed with, too: the loader rounds first, then quantises."""
    from lite_huatuo.models import backends

    base = tmp_path / "base"
    finer = AutoModelForCausalLM.from_pretrained(bases["free"], dtype=torch.float32)
    for parameter in finer.parameters():
        parameter.data *= 1 + 1e-3 * torch.randn_like(parameter)
    finer.save_pretrained(base)
    make_tokenizer(["fever and rash"], 300).save_pretrained(base)
    adapted(base, tmp_path / "adapter", target_modules=["q_proj"])
    export(base, tmp_path / "adapter", tmp_path / "model", onto="trained", compute_dtype=computed_in)
    loaded = backends.load(str(base), compute_dtype=computed_in, backend="plain")
    wanted = loaded.model.dequantize().state_dict()
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    original = finer.state_dict()
    changed = set()
    for name, tensor in wanted.items():
        if "q_proj.weight" not in name:
            assert torch.equal(stored[name], tensor.float()), name
            changed |= {name} if not torch.equal(stored[name], original[name]) else set()
    quantised = {name for name in changed if "proj.weight" in name}
    assert len(quantised) == 12, "six linear layers of two blocks, beside q_proj"
    assert (changed > quantised) == (computed_in != "float32"), "the others are rounded as the loader rounds them"


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


@pytest.mark.parametrize("onto", ["base", "trained"])
def test_what_was_hardly_learned_in_wide_layers_is_merged_as_peft_does(tmp_path: Path, onto: str) -> None:
    """Most of such a LoRA is less than half a unit of bfloat16: rounding takes it away, which is no fault."""
    model = adapted(wide(tmp_path / "base"), tmp_path / "adapter", std=5e-4, target_modules=["down_proj", "lm_head"])
    figures = export(tmp_path / "base", tmp_path / "adapter", tmp_path / "model", "bfloat16", onto)
    assert figures["neighbours"] < 100
    if onto == "base":
        merged = model.merge_and_unload().state_dict()["model.layers.0.mlp.down_proj.weight"]
        stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
        assert torch.equal(stored["model.layers.0.mlp.down_proj.weight"], merged.bfloat16())


def left_as_it_was(right: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    return stored


def turned(right: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    return -right


def a_unit_off(right: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(right.shape[1]) == 7, right.float() * (1 + 2**-7), right).to(right.dtype)


@pytest.mark.parametrize("damage", [left_as_it_was, turned, a_unit_off, lambda right, stored: 0 * right])
@pytest.mark.parametrize("tensor", ["model.layers.0.mlp.down_proj.weight", "lm_head.weight"])
def test_one_wrong_row_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, damage: Callable[..., torch.Tensor]
) -> None:
    adapted(wide(tmp_path / "base"), tmp_path / "adapter", std=5e-4, target_modules=["down_proj", "lm_head"])
    right = merge.pieces

    def wrong(name: str, made: Made, path: Path, *rest: Any) -> Iterator[torch.Tensor]:
        for number, piece in enumerate(right(name, made, path, *rest)):
            if name == tensor and number == 0:
                piece[3:4] = damage(piece[3:4], base_files.rows(path, made.source, 3, 4))
            yield piece

    monkeypatch.setattr(merge, "pieces", wrong)
    with pytest.raises(ExportError, match=f"^{tensor}: the exported tensor is not what base"):
        export(tmp_path / "base", tmp_path / "adapter", tmp_path / "model", "bfloat16")


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


def test_a_head_that_only_seems_tied_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """transformers takes both where they differ, whatever the configuration says; the run was trained so."""
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    tied = AutoModelForCausalLM.from_pretrained(bases["tied"])
    tied.save_pretrained(base)
    make_tokenizer(["fever and rash"], 300).save_pretrained(base)
    weights = load_file(base / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    save_file({**weights, "lm_head.weight": head}, base / "model.safetensors", metadata={"format": "pt"})
    adapted(base, tmp_path / "adapter", target_modules=["q_proj"])
    export(base, tmp_path / "adapter", tmp_path / "same")
    head[-1] += 1
    save_file({**weights, "lm_head.weight": head}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"lm_head.weight is not model.embed_tokens.weight, though config.json says"):
        export(base, tmp_path / "adapter", tmp_path / "model")


def test_another_base_is_told_by_its_missing_tensor(bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(bases["free"], tmp_path / "adapter", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key.replace("layers.1", "layers.7"): tensor for key, tensor in load_file(path).items()}, path)
    with pytest.raises(ExportError, match=r"layers\.7\.self_attn\.q_proj\.weight: the adapter changes it, but"):
        export(bases["free"], tmp_path / "adapter", tmp_path / "model")
