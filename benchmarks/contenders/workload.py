"""What every contender of benchmarks/ppo_update.py works on: a random model, its tokenizer, an adapter, work.json."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import protocol
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests import tiny

EPISODES = 16
MEDIAN_REPLY, SPREAD, LEAST_REPLY, MOST_REPLY = 48, 0.8, 4, 256  # log-normal; the stop token counts
VOCABULARY = 8192
LAYERS, HIDDEN = 8, 512
RANK, ALPHA = 16, 32


def write(
    folder: Path,
    *,
    updates: int,
    seed: int,
    threads: int,
    episodes: int = EPISODES,
    reply: int | None = None,
    layers: int = LAYERS,
    hidden: int = HIDDEN,
    rank: int = RANK,
) -> dict[str, Any]:
    """Write the workload and return what stands in work.json. The same seed makes the same workload.

    `reply`: the length of every reply, the stop token included; None draws them.
    """
    rng = random.Random(seed)
    stop, pad = _model(folder, rng, seed, layers, hidden, rank)
    first = len(tiny.SPECIAL)  # queries hold no special tokens
    work = {
        "seed": seed,
        "threads": threads,
        "pad": pad,
        "stop": stop,
        "queries": [[rng.randrange(first, VOCABULARY) for _ in range(rng.randint(32, 64))] for _ in range(episodes)],
        "lengths": [[reply or _length(rng) for _ in range(episodes)] for _ in range(updates)],
        "max_reply": max(MOST_REPLY, reply or 0),
        "epochs": 3,
        "temperature": 1.0,
        "learning_rate": 5e-6,
        "kl_coef": 0.03,
        "clip_range": 0.2,
        "gae_lambda": 0.95,
        "rank": rank,
        "alpha": ALPHA,
    }
    (folder / "work.json").write_text(json.dumps(work))
    return work


def _length(rng: random.Random) -> int:
    drawn = round(math.exp(rng.gauss(math.log(MEDIAN_REPLY), SPREAD)))
    return min(MOST_REPLY, max(LEAST_REPLY, drawn))


def _model(folder: Path, rng: random.Random, seed: int, layers: int, hidden: int, rank: int) -> tuple[int, int]:
    """Save the model with its tokenizer, and a fresh adapter on it; return stop and pad token."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [" " + "".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(6000)]
    tokenizer = tiny.make_tokenizer(words, VOCABULARY)
    assert len(tokenizer) == VOCABULARY, len(tokenizer)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lora = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=protocol.LINEAR, task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    return tokenizer.eos_token_id, tokenizer.pad_token_id
