"""What is told of an adapter before it goes out: those that belong to a changed base, and those vLLM scales wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lite_huatuo.errors import ExportError
from lite_huatuo.export import adapter_folder
from lite_huatuo.export.adapter_file import AdapterFile


def network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))


def begun(folder: Path, begin: Any) -> bool:
    """Save an adapter that peft began in this way; return whether that changed the base's weights."""
    model = network()
    before = model.model.layers[0].self_attn.q_proj.weight.clone()
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=begin)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder)
    return not torch.equal(adapted.model.model.layers[0].self_attn.q_proj.base_layer.weight, before)


@pytest.mark.parametrize("begin", ["pissa", "pissa_niter_4", "olora"])
def test_adapters_of_a_changed_base_are_refused(tmp_path: Path, begin: str) -> None:
    assert begun(tmp_path, begin)
    with pytest.raises(ExportError, match=rf"init_lora_weights: {begin}: .*path_initial_model_for_weight_conversion"):
        AdapterFile(tmp_path)


@pytest.mark.parametrize("begin", ["corda", "loftq", "lora_ga"])  # the others need data or scipy to begin
def test_adapters_of_a_changed_base_are_refused_by_their_settings(tmp_path: Path, begin: str) -> None:
    begun(tmp_path, True)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": begin}))
    with pytest.raises(ExportError, match=f"init_lora_weights: {begin}: "):
        AdapterFile(tmp_path)


@pytest.mark.parametrize("begin", [True, False, "gaussian", "orthogonal", "mica"])
def test_adapters_of_the_base_as_it_is_are_read(tmp_path: Path, begin: Any) -> None:
    assert not begun(tmp_path, begin)
    assert AdapterFile(tmp_path).loras == {"model.layers.0.self_attn.q_proj.weight"}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"r": 4, "lora_alpha": 8, "use_rslora": True, "bias": "none"}, []),
        ({"rank_pattern": {}, "alpha_pattern": {}}, []),
        ({"rank_pattern": {"v_proj": 2}}, ["ranks by layer (rank_pattern) are scaled wrongly"]),
        ({"alpha_pattern": {"v_proj": 32}}, ["alphas by layer (alpha_pattern) are scaled wrongly"]),
        ({"use_dora": True, "bias": "all"}, ["DoRA is not supported", "biases are not supported"]),
    ],
)
def test_what_vllm_would_not_serve_as_trained_is_told(config: dict[str, Any], told: list[str]) -> None:
    assert adapter_folder.vllm_objections(config) == told
