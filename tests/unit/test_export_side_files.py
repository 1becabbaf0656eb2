"""The JSON beside exported weights: what the base published, with the export's changes, for transformers 4 and 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from lite_huatuo.export import adapter_folder, merge, settings_files
from lite_huatuo.models import tokenizer as tokenizers
from tests import tiny

QWEN_GENERATION = {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "transformers_version": "4.37.0",
}
LLAMA_GENERATION = {
    "bos_token_id": 128000,
    "do_sample": True,
    "eos_token_id": [128001, 128008, 128009],
    "temperature": 0.6,
    "top_p": 0.9,
    "transformers_version": "4.42.3",
}
SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
QWEN = {"rope_theta": 1000000.0, "torch_dtype": "bfloat16", "transformers_version": "4.43.1"}
LLAMA = {"rope_theta": 500000.0, "rope_scaling": SCALING, "torch_dtype": "bfloat16", "transformers_version": "4.42.3"}
WORDS = "<|user|>A rash of 38.5 and fever<|end|>"


def edit(path: Path, **change: Any) -> dict[str, Any]:
    """Change a JSON file's keys (... takes one out); return what stands there then."""
    settings = json.loads(path.read_text()) if path.is_file() else {}
    settings = {key: value for key, value in {**settings, **change}.items() if value is not ...}
    path.write_text(json.dumps(settings))
    return settings


def make_base(folder: Path, kind: str, form: str) -> Path:
    """Save a tiny base in the form that is published, or as transformers 5 saves it."""
    if kind == "llama":
        tiny.make_model(folder, ["a fever and a rash, which cure"], vocabulary=300)
    else:
        tokenizer = tiny.make_tokenizer(["a fever and a rash, which cure"], 300)
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, eos_token_id=1, **sizes)
        Qwen2ForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    published = LLAMA if kind == "llama" else QWEN
    edit(folder / "config.json", **published, rope_parameters=..., dtype=...)
    classes = {"llama": "PreTrainedTokenizerFast", "qwen2": "Qwen2Tokenizer"}
    marks = ["<|user|>", "<|assistant|>"]
    plain = {"tokenizer_class": classes[kind], "additional_special_tokens": marks, "chat_template": tiny.TEMPLATE}
    edit(folder / "tokenizer_config.json", **plain, backend=..., is_local=..., local_files_only=...)
    (folder / "chat_template.jinja").unlink()
    if form == "saved anew":
        words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        assert "rope_theta" not in json.loads((folder / "config.json").read_text()), "the older form is no longer there"
    return folder


def export(base: Path, folder: Path, **more: Any) -> Path:
    """Export a random adapter on `base`, merged and alone; return the folder that holds both."""
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(network, lora).save_pretrained(folder / "lora")
    settings = {"model": str(base), "quantization": "none", **more}
    options = {"onto": "base", "dtype": "float16", "max_shard_size": "1GB", "logits": False}
    merge.export(folder / "lora", folder / "merged", base=settings, **options)
    adapter_folder.export(folder / "lora", folder / "adapter", base=settings)
    return folder


@pytest.mark.parametrize("form", ["published", "saved anew"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_4_and_5_find_the_same_model_and_words(tmp_path: Path, kind: str, form: str) -> None:
    base = make_base(tmp_path / "base", kind, form)
    out = export(base, tmp_path)
    config = json.loads((out / "merged" / "config.json").read_text())
    published = LLAMA if kind == "llama" else QWEN
    assert config["rope_theta"] == published["rope_theta"]
    assert config.get("rope_scaling") == published.get("rope_scaling")
    assert config["torch_dtype"] == config.get("dtype", "float16") == "float16"
    found, own = AutoConfig.from_pretrained(out / "merged"), AutoConfig.from_pretrained(base)
    assert found.rope_parameters == own.rope_parameters
    assert found.dtype == torch.float16
    before = json.loads((base / "config.json").read_text())
    for key in ("torch_dtype", "dtype", "pad_token_id", "rope_theta", "rope_scaling"):
        config.pop(key, None), before.pop(key, None)
    assert config == before

    student = tokenizers.load(str(base)).hf
    for folder in (out / "merged", out / "adapter"):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == ("PreTrainedTokenizerFast" if kind == "llama" else "Qwen2Tokenizer")
        assert settings["additional_special_tokens"] == ["<|user|>", "<|assistant|>"]
        assert not {"extra_special_tokens", "is_local", "local_files_only"} & set(settings)
        words = AutoTokenizer.from_pretrained(folder)
        assert words(WORDS)["input_ids"] == student(WORDS)["input_ids"]
        assert (words.eos_token, words.pad_token, words.padding_side) == ("<|end|>", "<|pad|>", "left")
        assert words.chat_template == tiny.TEMPLATE


@pytest.mark.parametrize("form", ["published", "saved anew"])
def test_a_template_of_the_recipe_stands_wherever_the_bases_did(tmp_path: Path, form: str) -> None:
    base = make_base(tmp_path / "base", "llama", form)
    other = tiny.TEMPLATE.replace("<|assistant|>", "<|assistant|>:")
    (tmp_path / "own.jinja").write_text(other)
    out = export(base, tmp_path, chat_template=str(tmp_path / "own.jinja"))
    for folder in (out / "merged", out / "adapter"):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings.get("chat_template", other) == other
        assert AutoTokenizer.from_pretrained(folder).chat_template == other


def test_a_generation_config_that_contradicts_itself_is_carried_along(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "llama", "published")
    odd = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 1, "_comment": "as published"}
    (base / "generation_config.json").write_text(json.dumps(odd))
    out = export(base, tmp_path)
    assert json.loads((out / "merged" / "generation_config.json").read_text()) == {**odd, "pad_token_id": 0}


def test_a_base_without_generation_config_gets_stop_and_pad_tokens(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "llama", "published")
    (base / "generation_config.json").unlink()
    out = export(base, tmp_path)
    written = json.loads((out / "merged" / "generation_config.json").read_text())
    assert written == {"eos_token_id": [1], "pad_token_id": 0}


@pytest.mark.parametrize(
    ("own", "stops", "pad", "changed"),
    [
        (QWEN_GENERATION, [151643, 151645], 151662, {"pad_token_id": 151662}),
        (LLAMA_GENERATION, [128001, 128008, 128009], 128004, {"pad_token_id": 128004}),
        ({"eos_token_id": 2}, [2], 0, {"pad_token_id": 0}),
        ({"eos_token_id": [2, 3]}, [2], 0, {"eos_token_id": [2], "pad_token_id": 0}),
    ],
)
def test_published_generation_configs_come_out_as_they_were(
    own: dict[str, Any], stops: list[int], pad: int, changed: dict[str, Any]
) -> None:
    assert settings_files.generation(own, stop_ids=stops, pad_id=pad) == {**own, **changed}


def test_published_configs_keep_their_own_words() -> None:
    linear = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    for own, rope in (
        ({"rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e6}),
        (linear, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_theta": 5e5, "rope_scaling": SCALING}, {**SCALING, "rope_theta": 5e5}),
        ({"n_embd": 8}, None),
        ({"rope_local_base_freq": 1e4}, {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {}}),
    ):
        made = settings_files.config(own, rope, dtype="bfloat16", pad_id=7, untied=False)
        assert made == {**own, "torch_dtype": "bfloat16", "pad_token_id": 7}


def test_what_a_network_means_without_saying_it_is_said() -> None:
    made = settings_files.config(
        {"model_type": "llama"}, {"rope_type": "default", "rope_theta": 1e4}, dtype="float16", pad_id=0, untied=True
    )
    assert made["rope_theta"] == 1e4
    assert "rope_scaling" not in made
    assert made["tie_word_embeddings"] is False


def test_newer_words_get_older_twins() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert settings_files.older_rope(yarn) == {"rope_theta": 1e6, "rope_scaling": scaling}
    part = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    found = settings_files.older_rope(part)
    assert found == {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "rope_scaling": None}


def test_nothing_of_the_machine_and_of_foreign_code_goes_along() -> None:
    own = {"_name_or_path": "/home/me", "auto_map": {"AutoConfig": "c.C"}, "head_dim": 8, "quantization_config": {}}
    made = settings_files.config(own, None, dtype="float16", pad_id=0, untied=False)
    assert made == {"head_dim": 8, "torch_dtype": "float16", "pad_token_id": 0}
    words = {"name_or_path": "/home/me", "is_local": True, "local_files_only": True, "eos_token": {"content": "e"}}
    words |= {"pad_token_id": 7, "eos_token_id": 8}
    made = settings_files.tokenizer(words, end="e", pad="p", chat_template=None)
    assert made == {"eos_token": {"content": "e"}, "pad_token": "p", "padding_side": "left"}


def test_more_special_tokens_are_added_to_those_that_are_named() -> None:
    own = {"extra_special_tokens": ["a", "b"], "additional_special_tokens": ["b"]}
    made = settings_files.special_tokens(own, end="e", pad="p")
    assert made == {"additional_special_tokens": ["b", "a"], "eos_token": "e", "pad_token": "p"}
    named = {"extra_special_tokens": {"image_token": "i"}}  # a form of transformers 4
    assert settings_files.special_tokens(named, end="e", pad="p")["extra_special_tokens"] == {"image_token": "i"}
