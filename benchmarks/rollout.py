"""Sampling replies of very different lengths: continuous batching beside transformers' `generate`.

    python benchmarks/rollout.py [--rounds 5] [--episodes 64] [--batch-size 8 16 32] [--quantization none nf4]

The model and the spread of lengths are those of benchmarks/ppo_update.py: a random Llama (hidden 512, 8 layers) with a
LoRA of rank 16, queries of 32 to 64 tokens, replies log-normal with median 48, at most 256, forced on both. `generate`
gets its queries sorted by length, a batch at a time. Both have every batch size of the list, by turns in one process;
the ratio of their best ones is told as well. Processor seconds are what to read on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "contenders"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ppo_update
import protocol
import torch
import workload
from ours import forced
from transformers import GenerationConfig, LogitsProcessorList

from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.training import decoding


def ours(shared: SharedBase, queries: list[list[int]], lengths: list[int], batch_size: int) -> list[int]:
    """Write replies with the project's own decoding; return their lengths."""
    replies = decoding.decode(
        shared,
        queries,
        max_reply_length=workload.MOST_REPLY,
        batch_size=batch_size,
        temperature=1.0,
        choose=forced(lengths, shared.tokenizer.end_id),
    )
    return [len(reply.tokens) for reply in replies]


def generate(shared: SharedBase, queries: list[list[int]], lengths: list[int], batch_size: int) -> list[int]:
    """Write replies with transformers' `generate`; return their lengths."""
    pad, stop = shared.tokenizer.pad_id, shared.tokenizer.end_id
    config = GenerationConfig(
        max_new_tokens=workload.MOST_REPLY, do_sample=True, top_k=0, eos_token_id=stop, pad_token_id=pad
    )
    found = [0] * len(queries)
    order = sorted(range(len(queries)), key=lambda i: len(queries[i]))
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        width = max(len(queries[i]) for i in group)
        ids = torch.tensor([[pad] * (width - len(queries[i])) + queries[i] for i in group])
        wanted = {tuple(queries[i]): lengths[i] for i in group}
        output = shared.causal.generate(
            input_ids=ids,
            attention_mask=(ids != pad).long(),
            generation_config=config,
            logits_processor=LogitsProcessorList([protocol.Forced(wanted, stop=stop, pad=pad)]),
        )
        for i, tokens in zip(group, output[:, width:].tolist(), strict=True):
            found[i] = tokens.index(stop) + 1
    return found


def compare(shared: SharedBase, work: dict[str, Any], batch_sizes: list[int]) -> dict[str, list[float]]:
    """Run both by turns; return processor seconds by contender and batch size, one round after another."""
    contenders: dict[str, Callable[..., list[int]]] = {"ours": ours, "generate": generate}
    seconds: dict[str, list[float]] = {f"{name} {size}": [] for name in contenders for size in batch_sizes}
    for turn, lengths in enumerate(work["lengths"]):
        for size in batch_sizes:
            for name, run in contenders.items():
                began = time.process_time()
                with shared.using("actor"), torch.no_grad():
                    written = run(shared, work["queries"], lengths, size)
                assert written == lengths, f"{name}: the replies are not as long as drawn"
                if turn:  # the first is to warm up
                    seconds[f"{name} {size}"].append(time.process_time() - began)
                print(f"{turn} {name} {size}: {time.process_time() - began:.1f} s", file=sys.stderr)
    return seconds


def summary(seconds: dict[str, list[float]], tokens: list[int], batch_sizes: list[int]) -> dict[str, Any]:
    """Return medians over the rounds, and ratios generate / ours: at equal batch sizes, and best against best."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = {size: (seconds[f"generate {size}"], seconds[f"ours {size}"]) for size in batch_sizes}
    ratios = {
        f"batch {size}": statistics.median(a / b for a, b in zip(*pair, strict=True)) for size, pair in pairs.items()
    }
    best = {name: min(medians[f"{name} {size}"] for size in batch_sizes) for name in ("ours", "generate")}
    ratios["best of each"] = best["generate"] / best["ours"]
    rate = {
        name: statistics.median(n / s for n, s in zip(tokens, values, strict=True)) for name, values in seconds.items()
    }
    return {"median cpu s": medians, "reply tokens per cpu s": rate, "generate / ours": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more comes before them")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--quantization", nargs="+", choices=["none", "nf4"], default=["none", "nf4"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1")
    torch.set_num_threads(arguments.threads)
    told: dict[str, Any] = {"command": sys.argv, "machine": ppo_update.machine(), "versions": protocol.versions()}
    print(told["machine"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = workload.write(
            folder, updates=arguments.rounds + 1, seed=0, threads=arguments.threads, episodes=arguments.episodes
        )
        tokens = [sum(lengths) for lengths in work["lengths"][1:]]
        for quantization in arguments.quantization:
            base = backends.load(str(folder / "model"), quantization=quantization)
            shared = SharedBase.from_adapters(base, {"actor": folder / "adapter"}, ())
            found = summary(compare(shared, work, arguments.batch_size), tokens, arguments.batch_size)
            told[quantization] = found
            print(f"\nquantization {quantization}, {arguments.episodes} episodes, median of {arguments.rounds} rounds")
            for name, median in found["median cpu s"].items():
                print(f"{name:>14}: {median:7.1f} CPU s, {found['reply tokens per cpu s'][name]:6.1f} tokens a CPU s")
            print("generate / ours: " + ", ".join(f"{k} {v:.2f}" for k, v in found["generate / ours"].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
