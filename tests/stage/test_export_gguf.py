"""GGUF files: read back by transformers' own reader, they write the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lite_huatuo.errors import ExportError
from lite_huatuo.export import gguf_file, gguf_vocabulary
from tests.tiny import make_tokenizer

LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
QUESTION = [{"role": "user", "content": "Which cure for a rash with 38.5 degrees?"}]
KINDS: dict[str, Any] = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "initializer_range": 0.1,
}


def make(folder: Path, kind: str, *, tied: bool = False, spare: int = 0, **change: Any) -> Path:
    """Save a random model as an export leaves it, with `spare` embedding rows beyond the tokenizer's tokens."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["a fever and a rash, which cure, 38.5 degrees"], 320)
    config, network = KINDS[kind]
    settings = {**SHAPE, **change, "vocab_size": len(tokenizer) + spare, "tie_word_embeddings": tied}
    model = network(config(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0, 0.2) if parameter.ndim == 1 else None
    model.half().save_pretrained(folder, max_shard_size="40KB")
    tokenizer.save_pretrained(folder)
    return folder


def greedy(model: Any, ids: list[int]) -> tuple[list[int], torch.Tensor]:
    asked = torch.tensor([ids])
    with torch.no_grad():
        logits = model(asked).logits
    return model.generate(asked, max_new_tokens=24, do_sample=False, pad_token_id=0)[0].tolist(), logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tied", "spare"), [(False, 9), (True, 3)])
def test_f16_is_the_same_model_to_transformers_reader(tmp_path: Path, kind: str, tied: bool, spare: int) -> None:
    folder = make(tmp_path / "model", kind, tied=tied, spare=spare)
    gguf_file.write(folder, tmp_path / "m-f16.gguf", "f16", name="student")
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m-f16.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(QUESTION, add_generation_prompt=True)["input_ids"]
    (text, logits), (found, found_logits) = greedy(ours, ids), greedy(read, ids)
    assert text == found
    torch.testing.assert_close(found_logits, logits, rtol=1e-4, atol=1e-4)
    words = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m-f16.gguf")
    # of special tokens, transformers' reader of Qwen2 files knows only Qwen's own
    asked = "A rash of 38.5" if kind == "qwen2" else "<|user|>A rash of 38.5<|end|>"
    assert words(asked)["input_ids"] == AutoTokenizer.from_pretrained(folder)(asked)["input_ids"]
    assert words.apply_chat_template(QUESTION, tokenize=False).startswith("<|user|>Which cure")


def test_q8_0_is_close_and_half_as_large(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama")
    for kind in ("f16", "q8_0"):
        gguf_file.write(folder, tmp_path / f"{kind}.gguf", kind, name="student")
    halves, eighths = ({t.name: t for t in gguf.GGUFReader(tmp_path / f"{k}.gguf").tensors} for k in ("f16", "q8_0"))
    assert {t.tensor_type.name for t in eighths.values()} == {"Q8_0", "F32"}
    for name, tensor in halves.items():
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = gguf.quants.dequantize(eighths[name].data, eighths[name].tensor_type)
        assert numpy.abs(found - expected).max() <= numpy.abs(expected).max() / 127, name
    assert sum(t.n_bytes for t in eighths.values()) < 0.6 * sum(t.n_bytes for t in halves.values())


def test_llama_3_scaling_goes_along_as_factors(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama", rope_parameters=LLAMA_3)
    gguf_file.write(folder, tmp_path / "m.gguf", "f16", name="student")
    factors = next(t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors if t.name == "rope_freqs.weight").data
    model = AutoModelForCausalLM.from_pretrained(folder)
    plain = 500000.0 ** (-numpy.arange(8) / 8)
    numpy.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert factors[0] == 1
    assert factors[-1] == 8
    with pytest.raises(ExportError, match="rotary scaling of type linear"):
        gguf_file.rope_factors(LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}))


def test_the_modelfile_asks_as_the_student_was_trained(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make(tmp_path / "model", "qwen2"))
    text = gguf_vocabulary.modelfile(tokenizer, [1], "m.gguf")
    assert text == (
        'FROM ./m.gguf\nTEMPLATE """<|user|>{{ .Prompt }}<|end|><|assistant|>{{ .Response }}"""\n'
        'PARAMETER stop "<|end|>"\n'
    )


def test_the_modelfile_has_stop_tokens_as_they_are(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make(tmp_path / "model", "llama"))
    words = ["<｜end▁of▁sentence｜>", 'a "b" \\c']
    tokenizer.add_tokens(words, special_tokens=True)
    chinese, quoted = tokenizer.convert_tokens_to_ids(words)
    text = gguf_vocabulary.modelfile(tokenizer, [chinese, quoted], "m.gguf")
    assert text.endswith('\nPARAMETER stop "<｜end▁of▁sentence｜>"\nPARAMETER stop "a "b" \\c"\n')
    cure = tokenizer.encode(" cure")  # a word of the vocabulary, which stands there in another alphabet
    assert gguf_vocabulary.modelfile(tokenizer, cure[0], "m.gguf").endswith(f'"{tokenizer.decode(cure[:1])}"\n')


def test_the_ways_to_cut_text_are_known_by_llama_cpps_names() -> None:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    def split(pattern: str) -> dict:
        words = {"type": "Split", "pattern": {"Regex": pattern}}
        return {"type": "Sequence", "pretokenizers": [words, {"type": "ByteLevel", "use_regex": False}]}

    digits = {"type": "Digits", "individual_digits": True}
    plain = {"type": "ByteLevel", "use_regex": True}
    assert gguf_vocabulary.cut(plain) == "gpt-2"
    assert gguf_vocabulary.cut({"type": "Sequence", "pretokenizers": [digits, plain]}) == "smollm"
    assert gguf_vocabulary.cut(split(PRETOKENIZE_REGEX)) == "qwen2"
    assert gguf_vocabulary.cut(split(PRETOKENIZE_REGEX.replace(r"\p{N}|", r"\p{N}{1,3}|"))) == "llama-bpe"
    for unknown in (None, split("x"), {"type": "Whitespace"}):
        with pytest.raises(ExportError, match="how this tokenizer cuts text"):
            gguf_vocabulary.cut(unknown)


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "mistral"'))
    with pytest.raises(ExportError, match="mistral is not known here"):
        gguf_file.write(folder, tmp_path / "m.gguf", "f16", name="student")
