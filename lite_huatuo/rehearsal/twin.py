"""A tiny twin of a base: the same architecture with a few narrow layers, a small tokenizer with the family's chat
template, and weights that were taught the reply form, so that verifier, reward and selection have replies to work on.

Everything that is no size stays as the base has it: tied or untied head, biases, rope settings, norms, grouped queries,
the kinds of attention.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lite_huatuo.errors import BackendError
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.rehearsal import data
from lite_huatuo.rehearsal.tokens import Family, family_of, make_tokenizer
from lite_huatuo.response_format import render

VERSION = 1  # of what is made here: a twin in the cache from another version is not used
HIDDEN, WIDEST, HEAD_DIM, INTERMEDIATE, LAYERS = 64, 256, 32, 128, 3  # widths are multiples of NF4's blocks of 64
STEPS, BATCH, LEARNING_RATE = 100, 8, 1e-2  # of the teaching, on all parameters
# What a config says of other networks than this one, or of how this one was stored.
LEFT_OUT = ("architectures", "auto_map", "quantization_config", "torch_dtype", "dtype", "transformers_version")
SIZES = {  # field -> most of it that a twin has
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "sliding_window": 32,
}


def shrink(config: Mapping[str, Any], vocabulary: int, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the twin's config.json: the base's with small sizes. `ids` are the tokenizer's special tokens.

    The ratio of heads to key-value heads stays, and so does every kind of layer.
    """
    heads = int(config["num_attention_heads"])
    kv = int(config.get("num_key_value_heads") or heads)
    few = min(kv, 2)
    queries = few * max(1, heads // kv)
    fitting = math.lcm(HIDDEN, queries)  # Llama's wants a multiple of its heads
    small = {key: value for key, value in config.items() if key not in LEFT_OUT}
    small.update({key: min(config[key], most) for key, most in SIZES.items() if isinstance(config.get(key), int)})
    kinds = list(config.get("layer_types") or [])
    depth = max(LAYERS, 1 + max(map(kinds.index, set(kinds)), default=0))
    if kinds:
        small["layer_types"] = kinds[:depth]
    small.update(
        hidden_size=fitting if fitting <= WIDEST else HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=depth,
        num_attention_heads=queries,
        num_key_value_heads=few,
        head_dim=HEAD_DIM,
        vocab_size=vocabulary,
        **ids,
    )
    if "max_window_layers" in small:
        small["max_window_layers"] = depth
    return small


def make(config: Mapping[str, Any], problems: Sequence[VerifiableProblem], cache: Path) -> Path:
    """Return the folder of a base's twin, taught with these problems; made once, then taken from `cache`.

    BackendError if this transformers cannot build such a network.
    """
    family = family_of(config)
    known = [VERSION, dict(config), [(p.question, p.ground_truth) for p in problems]]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
    folder = cache / f"twin-{config.get('model_type')}-{digest}"
    if not folder.is_dir():
        temporary = cache / f".tmp-{folder.name}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _build(config, family, problems, temporary)
        if folder.is_dir():  # another rehearsal was faster
            shutil.rmtree(temporary)
        else:
            os.replace(temporary, folder)
    return folder


def _build(config: Mapping[str, Any], family: Family, problems: Sequence[VerifiableProblem], folder: Path) -> None:
    """Make tokenizer and network, teach it, and save both as a base stands in a folder: 16-bit safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    texts = [
        (problem.question, render(data.THINKING, answer))
        for problem in problems
        for answer in data.answers(problem, problems)
    ]
    tokenizer = make_tokenizer([text for pair in texts for text in pair], family)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    small = shrink(config, len(tokenizer), ids)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**small)).to(torch.float32)
            teach(network, [_tokens(tokenizer, *pair) for pair in texts])
    except Exception as error:  # configurations raise kinds of their own
        reason = str(error).strip().split("\n")[0]
        raise BackendError(
            f"model_type {config.get('model_type')}: no twin can be built of this base ({reason})"
        ) from None
    network.generation_config.eos_token_id = [tokenizer.eos_token_id]
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokens(tokenizer: Any, question: str, reply: str) -> tuple[list[int], list[int]]:
    """Return query and reply as token ids."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    query = tokenizer(text, add_special_tokens=False)["input_ids"]
    return query, [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def teach(network: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> None:
    """Train all parameters of a float32 network on the replies, in place: `STEPS` steps of `BATCH` pairs."""
    import torch

    rng = random.Random(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    network.train()
    for step in range(STEPS):
        chosen = rng.sample(pairs, min(BATCH, len(pairs)))
        width = max(len(query) + len(reply) for query, reply in chosen)
        ids, labels, mask = (torch.full((len(chosen), width), fill) for fill in (0, -100, 0))
        for row, (query, reply) in enumerate(chosen):
            length = len(query) + len(reply)
            ids[row, :length] = torch.tensor(query + reply)
            labels[row, len(query) : length] = torch.tensor(reply)
            mask[row, :length] = 1
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        network(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    network.eval()
