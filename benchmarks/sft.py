"""Supervised fine-tuning on documents of different lengths: ours beside a padded loop and beside TRL's own modes.

    python benchmarks/sft.py [--rounds 3] [--spread published] [--quantization none nf4] [--json FILE]

A random Llama (hidden 512, 8 layers, vocabulary 8192) with a LoRA of rank 16 learns 64 documents of random tokens, loss
on the replies only, 8 documents an optimizer step, one epoch a round. How long query and reply are (`--spread`):

* `published`: log-normal as in 140 published medical-o1 examples (four characters counted as a token), a quarter as
  long: queries with median 11 and sigma 0.52, replies (complex CoT and response) with median 181 and sigma 0.20.
* `shipped`: the examples of shipped:sft_en, four characters a token. They are all nearly equally long.
* `wide`: replies with median 128 and sigma 0.8, as where short and long examples are mixed.

Contenders, named by how many documents are in a forward pass:

* `ours-8`, `ours-2`: TRL's SFTTrainer as training/sft.py sets it up: packed attention, no padding.
* `loop-8`: hand-written; pads to the longest of 8, model(**batch, labels=...), AdamW.
* `trl-8`, `trl-4`, `trl-1`: SFTTrainer, padded batches, gradients added up to 8 documents. `trl-sorted`: 8 of
  similar length, as transformers' group_by_length makes them of large data sets (of small ones it hardly does).
  `trl-free-8`, `trl-free-2`: padding_free=True. `trl-packing`: packing=True (best fit, 1024 tokens a row).

All but ours on transformers' plain SDPA attention. Adapters are float32 everywhere: in SFTTrainer those of a 4-bit base
become bfloat16, which is slow on CPUs. No gradient checkpointing. They take turns in one process, after one step each
to warm up, every time from the same weights. The losses of the first step must agree where it holds the same documents;
`trl-sorted` and `trl-packing` choose their own, and a step of `trl-packing` is as many full rows as hold about 8
documents. Processor seconds are what to read on a machine that does other work too. One case of the defaults takes
about 25 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "contenders"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
import ppo_update
import protocol
import torch
import transformers
import workload
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from lite_huatuo import recipe
from lite_huatuo.data import sources
from lite_huatuo.models import backends, packing
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import sft
from tests import tiny

BATCH, ROW = 8, 1024  # documents of an optimizer step; tokens of a packed row
RATE, CLIP = 1e-4, 1.0
# name: documents (trl-packing: rows) in a forward pass, and sft.packing
CONTENDERS: dict[str, tuple[int, str]] = {
    "ours-8": (8, "auto"),
    "ours-2": (2, "auto"),
    "loop-8": (8, "off"),
    "trl-8": (8, "off"),
    "trl-4": (4, "off"),
    "trl-1": (1, "off"),
    "trl-sorted": (8, "off"),
    "trl-free-8": (8, "auto"),
    "trl-free-2": (2, "auto"),
    "trl-packing": (1, "on"),
}
SAME_STEPS = [name for name in CONTENDERS if name not in ("trl-sorted", "trl-packing")]
# median and sigma of the queries' lengths and of the replies', log-normal
SPREADS = {"published": ((11, 0.52), (181, 0.20)), "wide": ((11, 0.52), (128, 0.8))}
LEAST, MOST = 4, 900
Row = dict[str, list[int]]


def lengths(spread: str, count: int, rng: random.Random) -> list[tuple[int, int]]:
    """Return the lengths of queries and replies."""
    if spread == "shipped":
        examples = rng.sample(sources.load_sft("shipped:sft_en"), count)
        return [(len(one.question) // 4, (len(one.complex_cot) + len(one.response)) // 4) for one in examples]

    def draw(median: float, sigma: float) -> int:
        return min(MOST, max(LEAST, round(math.exp(rng.gauss(math.log(median), sigma)))))

    query, reply = SPREADS[spread]
    return [(draw(*query), draw(*reply)) for _ in range(count)]


def documents(spread: str, count: int, seed: int) -> list[Row]:
    """Return documents of random tokens, none of them special."""
    rng = random.Random(seed)
    return [
        {
            "input_ids": rng.choices(range(len(tiny.SPECIAL), workload.VOCABULARY), k=query + reply),
            "completion_mask": [0] * query + [1] * reply,
        }
        for query, reply in lengths(spread, count, rng)
    ]


def grouped(rows: list[Row], seed: int) -> list[Row]:
    """Return documents in batches of similar length, the batches in any order."""
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    random.Random(seed).shuffle(batches)
    return [row for batch in batches for row in batch]


class Losses(TrainerCallback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


def load(name: str, folder: Path, quantization: str) -> SharedBase:
    """Return base and adapter, as at the start, with the attention of a contender."""
    base = backends.load(str(folder / "model"), quantization=quantization)
    shared = SharedBase.from_adapters(base, {"actor": folder / "adapter"}, ("actor",))
    if name.startswith("ours"):
        assert shared.causal.config._attn_implementation == packing.NAME
    else:
        shared.causal.set_attn_implementation("sdpa")
    return shared


def settings(name: str, folder: Path, rows: list[Row]) -> Any:
    """Return the SFTConfig that the project makes of a recipe with a contender's settings."""
    size, packs = CONTENDERS[name]
    per_step = BATCH
    if packs == "on":  # as many rows as hold about that many documents
        per_step = max(1, round(BATCH * statistics.fmean(len(row["input_ids"]) for row in rows) / ROW))
    tree = {
        "name": "bench",
        "base": {"model": str(folder / "model"), "max_length": ROW},
        "data": {"sft": "-", "problems": "-", "heldout": "-", "max_query_length": 256},
        "ppo": {"rollout": {"max_reply_length": 256}},
        "sft": {
            "epochs": 1.0,
            "batch_size": per_step,
            "microbatch_size": size,
            "learning_rate": RATE,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "max_grad_norm": CLIP,
            "packing": packs,
            "gradient_checkpointing": False,
        },
    }
    arguments = sft.trainer_arguments(recipe.check(tree, "bench"), RunDir(folder / "run"), evaluate=False, packs=True)
    arguments.train_sampling_strategy = "sequential"
    arguments.save_strategy = "no"
    return arguments


def train_trl(name: str, shared: SharedBase, rows: list[Row], folder: Path) -> tuple[float, list[float]]:
    """Train one epoch with SFTTrainer; return processor seconds and losses."""
    seen = Losses()
    trainer = SFTTrainer(
        model=shared.peft,
        args=settings(name, folder, rows),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=shared.tokenizer.hf,
        callbacks=[seen],
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in shared.parameters("actor").values():
        parameter.data = parameter.data.to(torch.float32)
    with shared.using("actor", learn=True):
        began = time.process_time()
        trainer.train()
        return time.process_time() - began, seen.losses


def train_loop(shared: SharedBase, rows: list[Row], pad: int) -> tuple[float, list[float]]:
    """Train one epoch as one writes it down first; return processor seconds and losses."""
    parameters = list(shared.parameters("actor").values())
    losses = []
    with shared.using("actor", learn=True):
        began = time.process_time()
        optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
        for start in range(0, len(rows), BATCH):
            group = rows[start : start + BATCH]
            width = max(len(row["input_ids"]) for row in group)
            ids = torch.full((len(group), width), pad)
            labels = torch.full((len(group), width), -100)
            mask = torch.zeros((len(group), width), dtype=torch.long)
            for i, row in enumerate(group):
                tokens, learnt = torch.tensor(row["input_ids"]), torch.tensor(row["completion_mask"]).bool()
                ids[i, : len(tokens)] = tokens
                mask[i, : len(tokens)] = 1
                labels[i, : len(tokens)] = torch.where(learnt, tokens, -100)
            loss = shared.peft(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return time.process_time() - began, losses


def epoch(name: str, rows: list[Row], folder: Path, quantization: str) -> tuple[float, list[float]]:
    """Train one epoch from the start; return processor seconds and the loss of every step."""
    shared = load(name, folder, quantization)
    if name.startswith("loop"):
        return train_loop(shared, rows, shared.tokenizer.pad_id)
    return train_trl(name, shared, rows, folder)


def compare(
    names: list[str], spread: str, folder: Path, quantization: str, rounds: int, count: int
) -> dict[str, list[dict[str, Any]]]:
    """Run the contenders by turns; return what every round found, by contender."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        # the first round is to warm up: one step
        rows = documents(spread, count if turn else BATCH, seed=turn)
        tokens = sum(len(row["input_ids"]) for row in rows)
        firsts = {}
        for name in names:
            ordered = grouped(rows, turn) if name == "trl-sorted" else rows
            seconds, losses = epoch(name, ordered, folder, quantization)
            print(f"{turn} {name}: {seconds:.1f} s, loss {losses[0]:.5f} ... {losses[-1]:.5f}", file=sys.stderr)
            if name in SAME_STEPS:
                assert len(losses) == math.ceil(len(rows) / BATCH), f"{name}: {len(losses)} steps"
                firsts[name] = losses[0]
            if turn:
                found[name].append({"cpu": seconds, "tokens": tokens, "losses": losses})
        apart = max(firsts.values()) - min(firsts.values()) if firsts else 0.0
        assert apart <= 1e-4, f"the first step's losses differ, so the work does: {firsts}"
    return found


def padding(spread: str, rounds: int, count: int) -> float:
    """Return how many tokens padded batches of 8 hold for one real token."""
    real = padded = 0
    for turn in range(1, rounds + 1):
        sizes = [len(row["input_ids"]) for row in documents(spread, count, seed=turn)]
        for group in (sizes[start : start + BATCH] for start in range(0, count, BATCH)):
            real, padded = real + sum(group), padded + max(group) * len(group)
    return padded / real


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians over the rounds, and ratios (medians too): times ours is as fast, each at its best."""
    rows = {
        name: {
            "cpu s": statistics.median(one["cpu"] for one in rounds),
            "tokens per cpu s": statistics.median(one["tokens"] / one["cpu"] for one in rounds),
            "steps": len(rounds[0]["losses"]),
            "last loss": rounds[-1]["losses"][-1],
        }
        for name, rounds in found.items()
    }

    def best(prefix: str) -> str | None:
        group = [name for name in rows if name.startswith(prefix)]
        return min(group, key=lambda name: rows[name]["cpu s"]) if group else None

    ratios = {}
    pairs = [("loop-8", "ours-8"), ("loop-8", best("ours")), (best("trl"), "ours-8"), (best("trl"), best("ours"))]
    for slow, fast in pairs:
        if slow in found and fast in found:
            both = zip(found[slow], found[fast], strict=True)
            ratios[f"{slow} / {fast}"] = statistics.median(a["cpu"] / b["cpu"] for a, b in both)
    return {"contenders": rows, "ratios": ratios}


def show(title: str, shown: dict[str, Any]) -> None:
    """Print the table of one case."""
    print(f"\n{title}\n{'':14}{'CPU s':>9}{'tokens/CPU s':>14}{'steps':>7}{'last loss':>11}")
    for name, row in shown["contenders"].items():
        rate, last = row["tokens per cpu s"], row["last loss"]
        print(f"{name:14}{row['cpu s']:9.1f}{rate:14.1f}{row['steps']:7}{last:11.4f}")
    for name, ratio in shown["ratios"].items():
        print(f"{name}: {ratio:.2f}")


def quieten() -> None:
    """Keep warnings (padding_free without flash attention, for one) and progress bars away from the table."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="that count; one step each comes before them")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--spread", nargs="+", choices=[*SPREADS, "shipped"], default=["published"])
    parser.add_argument("--quantization", nargs="+", choices=["none", "nf4"], default=["none", "nf4"])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1")
    torch.set_num_threads(arguments.threads)
    quieten()
    told: dict[str, Any] = {"command": sys.argv, "machine": ppo_update.machine(), "versions": protocol.versions()}
    print(told["machine"], told["versions"], sep="\n")
    told["cases"] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.write(folder, updates=1, seed=0, threads=arguments.threads)
        for spread in arguments.spread:
            waste = padding(spread, arguments.rounds, arguments.documents)
            for quantization in arguments.quantization:
                found = compare(
                    arguments.contenders, spread, folder, quantization, arguments.rounds, arguments.documents
                )
                case = {"spread": spread, "quantization": quantization, "padded / real": waste, **summary(found)}
                show(f"{spread}, quantization {quantization}; padded to {waste:.2f} x the real tokens in 8s", case)
                told["cases"].append({**case, "found": found})
                if arguments.json:
                    arguments.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
