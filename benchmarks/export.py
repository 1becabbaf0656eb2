"""Merging an adapter: the streamed export beside peft's merge_and_unload and beside copying the same bytes.

    python benchmarks/export.py [--layers 10 37] [--rounds 3] [--onto base trained] [--only copy …]

The model is a random Llama in bfloat16 (hidden 2048, 32,000 tokens; 10 layers are 1.3 GB, 37 are 4.1 GB, in files of at
most 1 GB), the adapter a random LoRA of rank 16 on all its linear layers. Every contender runs in a process of its own,
by turns; peak is that process's largest resident memory, less what it had when it had imported torch and transformers
(`over`), seconds are of the work alone, on the clock and of the processor (user and system). `stream` writes without
checks, `stream, checked` is what `lite-huatuo export --tensors-only` does, `peft` loads, merges and saves in bfloat16,
`copy` copies the base's files and flushes them.
Results go to a temporary folder, which must hold three times the model. On a busy machine read the processor's seconds.
The last two columns are the clock's seconds as a multiple of `copy`'s, and the peak as a share of `peft`'s.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CONTENDERS = ("stream", "stream, checked", "peft", "copy")
LIMIT = "1GB"


def make(folder: Path, layers: int) -> None:
    """Write base and adapter into folder/base and folder/adapter, without holding the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    from lite_huatuo.export import plan, shard_writer
    from lite_huatuo.export.base_files import INDEX, Info
    from tests.tiny import make_tokenizer

    tokenizer = make_tokenizer(["a fever and a rash"], 300)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=16,
        eos_token_id=1,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
    )
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    config.save_pretrained(base)
    tokenizer.save_pretrained(base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        stored = {name: Info(tuple(p.shape), torch.bfloat16) for name, p in model.named_parameters()}
        wrapped = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    planned = plan.shards({"all": stored}, set(), {}, torch.bfloat16, plan.parse_size(LIMIT))
    for shard in planned:
        infos = {name: made.info for name, made in shard.tensors.items()}
        shard_writer.write(base / shard.name, infos, (0.02 * torch.randn(i.shape).to(i.dtype) for i in infos.values()))
    if (index := plan.index(planned)) is not None:
        (base / INDEX).write_text(json.dumps(index))
    wrapped.peft_config["default"].save_pretrained(adapter)
    loras = {
        n.replace(".default", ""): 0.02 * torch.randn(p.shape) for n, p in wrapped.named_parameters() if "lora_" in n
    }
    save_file(loras, adapter / "adapter_model.safetensors")


def stream(folder: Path, to: Path, onto: str, *, check: bool) -> None:
    """Merge as the project does, with or without holding every tensor against peft."""
    from lite_huatuo.export import merge, tensor_parity
    from lite_huatuo.export.tensor_parity import Checked

    if not check:
        tensor_parity.check = lambda *_: Checked(0, 0, 0)
    base = {"model": str(folder / "base"), "quantization": "nf4"}
    merge.export(folder / "adapter", to, base=base, onto=onto, dtype="bfloat16", max_shard_size=LIMIT, logits=False)


def with_peft(folder: Path, to: Path) -> None:
    """Merge the whole model in memory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload().save_pretrained(to, max_shard_size=LIMIT)


def copy(folder: Path, to: Path) -> None:
    """Copy the base's weights."""
    import os

    to.mkdir()
    for path in (folder / "base").glob("*.safetensors"):
        with path.open("rb") as source, (to / path.name).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
            target.flush()
            os.fsync(target.fileno())


def contend(name: str, folder: Path, to: Path, onto: str) -> dict[str, float]:
    """Do one contender's work in this process; return seconds and peak memory in MiB."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    before, start, used = peak(), time.monotonic(), time.process_time()
    if name == "copy":
        copy(folder, to)
    elif name == "peft":
        with_peft(folder, to)
    else:
        stream(folder, to, onto, check=name == "stream, checked")
    return {
        "seconds": time.monotonic() - start,
        "processor": time.process_time() - used,
        "peak": peak(),
        "over": peak() - before,
    }


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(layers: int, rounds: int, onto: list[str], only: list[str]) -> None:
    """Run all contenders on one model, by turns, and print a line for each."""
    with tempfile.TemporaryDirectory(prefix="export-") as place:
        folder, found = Path(place), {}
        subprocess.run([sys.executable, __file__, "--make", place, "--layers", str(layers)], check=True)
        size = sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors")) / 1e9
        jobs = [(name, promise) for promise in onto for name in only if promise == "base" or "stream" in name]
        for _ in range(rounds):
            for name, promise in jobs:
                words = [sys.executable, __file__, "--contend", name, place, promise]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                found.setdefault((name, promise), []).append(json.loads(done.stdout.splitlines()[-1]))
                shutil.rmtree(folder / "out")
                print(f"{name}, {promise}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
        print(f"{layers} layers, {size:.2f} GB, {rounds} rounds; medians: seconds, the processor's, MiB, over imports")
        table(
            {(f"{name}, onto {promise}" if "stream" in name else name): runs for (name, promise), runs in found.items()}
        )


def table(found: dict[str, list[dict[str, float]]]) -> None:
    """Print a line for each contender: medians, and the time and memory beside those of copy and peft."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    for name, each in medians.items():
        line = f"{name:<30} {each['seconds']:6.1f} {each['processor']:6.1f} {each['peak']:7.0f} {each['over']:7.0f}"
        for other, key in (("copy", "seconds"), ("peft", "peak")):
            line += f"  {each[key] / medians[other][key]:5.2f}" if other in medians else "      -"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 37])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--onto", nargs="+", choices=["base", "trained"], default=["base", "trained"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--make", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contend", nargs=3, metavar=("NAME", "FOLDER", "ONTO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.layers[0])
    elif options.contend:
        name, folder, onto = options.contend
        print(json.dumps(contend(name, Path(folder), Path(folder) / "out", onto)))
    else:
        for layers in options.layers:
            measure(layers, options.rounds, options.onto, options.only)


if __name__ == "__main__":
    main()
