"""A random base of a size, made on the card layer by layer, with a tokenizer and data; nothing is downloaded.

It is a folder that `from_pretrained` reads, so that loading and quantising it is what a real base goes through.
"""

from __future__ import annotations

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config

from lite_huatuo import jsonl
from lite_huatuo.bench import measure
from lite_huatuo.bench.place import Place
from lite_huatuo.errors import BackendError

TOKENS = 4000  # of the tokenizer; the base's vocabulary is larger, as Qwen's is than what English text uses
SPECIAL = ["<|pad|>", "<|im_end|>", "<|im_start|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FILES_AT_ONCE = 8
GIB = 2**30


def run(place: Place) -> dict[str, Any]:
    """Make the base if it is not there; return its size."""
    if not (place.base / "whole").exists():
        shutil.rmtree(place.base, ignore_errors=True)
        place.base.mkdir(parents=True)
        _make(place)
        (place.base / "whole").touch()
    size = sum(path.stat().st_size for path in place.base.glob("*.safetensors"))
    return {"gib": round(size / GIB, 2), "shape": place.sized.shape}


def _make(place: Place) -> None:
    shape = place.sized.shape
    _check_room(place.work, shape)
    examples, problems = _shipped("sft_en.jsonl"), _shipped("problems_en.jsonl")
    texts = [" ".join(str(v) for v in row.values() if isinstance(v, str)) for row in examples + problems]
    _tokenizer(texts).save_pretrained(place.base)
    config = Qwen2Config(
        **shape, max_position_embeddings=32768, rms_norm_eps=1e-6, eos_token_id=1, pad_token_id=0, bos_token_id=None,
        use_sliding_window=False, architectures=["Qwen2ForCausalLM"], dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(place.base)
    GenerationConfig(eos_token_id=[1], pad_token_id=0).save_pretrained(place.base)
    torch.manual_seed(0)
    index: dict[str, str] = {}
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        waiting = []
        for number in range(-1, shape["num_hidden_layers"]):
            part = _outer(shape) if number < 0 else _layer(shape, number)
            name = f"model-{number + 1:03d}.safetensors"
            index.update(dict.fromkeys(part, name))
            waiting.append(pool.submit(save_file, part, place.base / name, metadata={"format": "pt"}))
            if len(waiting) == FILES_AT_ONCE:  # main memory holds so many layers, no more
                waiting.pop(0).result()
        for each in waiting:
            each.result()
    jsonl.write_text(place.base / "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": index}))
    _data(place.work / "data", examples, problems)


def _check_room(folder: Path, shape: dict[str, Any]) -> None:
    """Refuse a disk that cannot hold the base in 16 bit."""
    h, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    wanted = 2 * (layers * (3 * h * inner + 3 * h * h) + 2 * shape["vocab_size"] * h)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise BackendError(
            f"the random base takes {wanted / GIB:.0f} GiB of disk, {free / GIB:.0f} are free; give --to a folder on "
            "another disk, or a smaller --size"
        )


def _random(*size: int) -> Tensor:
    return (torch.randn(*size, device=measure.device(), dtype=torch.bfloat16) * 0.02).cpu()


def _outer(shape: dict[str, Any]) -> dict[str, Tensor]:
    """Return embedding, last norm and head."""
    h, vocabulary = shape["hidden_size"], shape["vocab_size"]
    part = {"model.embed_tokens.weight": _random(vocabulary, h), "model.norm.weight": torch.ones(h).bfloat16()}
    return part if shape["tie_word_embeddings"] else {**part, "lm_head.weight": _random(vocabulary, h)}


def _layer(shape: dict[str, Any], number: int) -> dict[str, Tensor]:
    """Return the tensors of one decoder layer."""
    h, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = h // shape["num_attention_heads"] * shape["num_key_value_heads"]
    part = {f"{name}.weight": torch.ones(h).bfloat16() for name in ("input_layernorm", "post_attention_layernorm")}
    for name, size in (("q", h), ("k", kv), ("v", kv)):
        part[f"self_attn.{name}_proj.weight"], part[f"self_attn.{name}_proj.bias"] = _random(size, h), _random(size)
    part["self_attn.o_proj.weight"] = _random(h, h)
    part["mlp.gate_proj.weight"], part["mlp.up_proj.weight"] = _random(inner, h), _random(inner, h)
    part["mlp.down_proj.weight"] = _random(h, inner)
    return {f"model.layers.{number}.{name}": tensor for name, tensor in part.items()}


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the demo's texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    made.chat_template = TEMPLATE
    return made


def _shipped(name: str) -> list[dict[str, Any]]:
    with resources.as_file(resources.files("lite_huatuo.data.demo") / name) as path:
        return [row for _, row in jsonl.iter_rows(path)]


def _data(folder: Path, examples: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    """Write SFT examples longer than any max_length, which are cut to it, and problems."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    words = " ".join(row["complex_cot"] for row in examples).split()
    rows = []
    for number in range(80):
        row, begin = dict(chance.choice(examples)), chance.randrange(max(1, len(words) - 3000))
        text = " ".join(words[begin : begin + 2600])
        rows.append({**row, "id": f"card-{number}", "question": f"{number}: {row['question']}", "complex_cot": text})
    jsonl.write(folder / "sft.jsonl", rows)
    asked = [problems[number % len(problems)] for number in range(200)]
    asked = [{**row, "id": f"p{n}", "question": f"{n}? {row['question']}"} for n, row in enumerate(asked)]
    jsonl.write(folder / "problems.jsonl", asked)
    held = [{**row, "id": f"h{n}", "question": f"held {row['question']}"} for n, row in enumerate(asked[:4])]
    jsonl.write(folder / "heldout.jsonl", held)
