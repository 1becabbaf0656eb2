"""What `lite-huatuo plan` predicts, beside what a run takes: peak resident memory by phase, on a CPU.

    python benchmarks/plan_memory.py [--only NAME ...] [--allocator default] [--json FILE]

Random Llamas of 10 to 80 million parameters; examples, queries and replies all have the greatest length that the recipe
allows, as the plan assumes. Each configuration is a process of its own. It imports everything, goes through all phases
once with a network as deep but a hundred times smaller, multiplies two matrices of the real sizes, takes its resident
memory then as the ground, and goes through the phases with the real one: load, SFT (two steps by TRL), and an update of
PPO: rollout, scoring, update. Measured is the peak (VmHWM) of each phase less the ground; predicted is the plan for a
CPU without what it adds for Python and its libraries.

glibc keeps freed memory of its own accord, differently from run to run; by default that is switched off
(MALLOC_MMAP_THRESHOLD_), so that what is measured is what is in use. `--allocator default` leaves it on.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "contenders")]

VOCABULARY = 300  # tokens the tokenizer knows; the network's is larger
PHASES = ("load", "SFT", "rollout", "scoring", "update")


@dataclass(frozen=True)
class Case:
    """One configuration: sizes of the network, and what the recipe says about memory."""

    hidden: int = 512
    layers: int = 8
    intermediate: int = 1408
    vocabulary: int = 8192
    heads: int = 8
    kv_heads: int = 2
    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    quantization: str = "nf4"
    double: bool = True
    kept: bool = False
    dtype: str = "auto"
    query: int = 192
    reply: int = 64
    sft_rows: int = 4
    rows: int = 8
    tokens: int = 1024
    checkpointing: bool = True
    optimizer: str = "adamw"
    trunk: int = 0


CASES = {
    "nf4": Case(),
    "nf4, no checkpointing": Case(checkpointing=False),
    "float32 base, rank 64": Case(quantization="none", rank=64, vocabulary=4096),
    "many rows, long": Case(query=400, reply=48, rows=24, tokens=896, sft_rows=1, kv_heads=8, layers=4),
    "wide, few layers": Case(hidden=1024, layers=4, intermediate=4096, rank=8, double=False),
    "large vocabulary": Case(hidden=384, layers=4, intermediate=1024, heads=6, vocabulary=100_000),
    "critic on a trunk": Case(trunk=2, tokens=2048, targets=("q_proj", "v_proj"), quantization="none"),
    "8-bit AdamW, rank 128": Case(rank=128, optimizer="paged_adamw_8bit", tokens=512, sft_rows=2),
    "bfloat16": Case(dtype="bfloat16", layers=6, rows=4, sft_rows=4),
    "kept dequantised": Case(kept=True, hidden=768, intermediate=2048),
}


def tree(case: Case, model: Path) -> dict[str, Any]:
    """Return the recipe of a case."""
    length = case.query + case.reply
    return {
        "name": "measured",
        "base": {
            "model": str(model),
            "quantization": case.quantization,
            "double_quantization": case.double,
            "keep_dequantised": case.kept,
            "compute_dtype": case.dtype,
            "backend": "plain",
            "max_length": length,
        },
        "adapter": {
            "rank": case.rank,
            "targets": case.targets if isinstance(case.targets, str) else list(case.targets),
        },
        "data": {"sft": "unread.jsonl", "problems": "unread.jsonl", "max_query_length": case.query},
        "sft": {
            "epochs": 1.0,
            "batch_size": case.sft_rows,
            "microbatch_size": case.sft_rows,
            "optimizer": case.optimizer,
            "gradient_checkpointing": case.checkpointing,
            "save_every": 1000,
        },
        "ppo": {
            "rollout": {"episodes": case.rows, "max_reply_length": case.reply, "batch_size": case.rows},
            "critic": {"trunk": "reference" if case.trunk else "own", "layers": case.trunk or 1},
            "epochs": 1,
            "microbatch_tokens": case.tokens,
            "optimizer": case.optimizer,
            "gradient_checkpointing": case.checkpointing,
        },
        "eval": {"batch_size": 1},
    }


def make_model(case: Case, folder: Path) -> None:
    """Save a random Llama with a tokenizer of few tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests import tiny

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        max_position_embeddings=4096,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [1]
    model.half().save_pretrained(folder)  # 16 bit, as bases are published
    tiny.make_tokenizer(["fever and rash"], VOCABULARY).save_pretrained(folder)


class Peaks:
    """Peak resident memory of phases, in bytes; a phase that comes again keeps its highest."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        from lite_huatuo.training import phases

        gc.collect()
        phases.reset_peak()
        result = work()
        peak = phases.peak_mib()
        assert peak is not None, "resident memory is told by Linux only"
        self.found[name] = max(self.found.get(name, 0), round(peak * 2**20))
        return result


def go_through(case: Case, model: Path, folder: Path) -> dict[str, int]:
    """Go through the phases of training; return their peaks."""
    from lite_huatuo import recipe as recipes
    from lite_huatuo.models import backends
    from lite_huatuo.models.shared_base import SharedBase
    from lite_huatuo.run_dir import RunDir
    from lite_huatuo.training import sft
    from lite_huatuo.training.progress import Quiet
    from lite_huatuo.training.sft_data import SFTRows

    recipe, peaks = recipes.check(tree(case, model), "measured"), Peaks()
    run = RunDir.create(folder, recipe.model_dump())
    loaded = peaks("load", lambda: backends.load(**recipe.base.model_dump()))
    length = case.query + case.reply
    row = {
        "input_ids": [5 + n % 250 for n in range(length)],
        "completion_mask": [0] * case.query + [1] * case.reply,
    }
    shared = SharedBase.fresh(loaded, "actor", **recipe.adapter.model_dump())
    rows = SFTRows([dict(row) for _ in range(2 * case.sft_rows)], [], 0, 0)
    peaks("SFT", partial(sft._fit, recipe, run, shared, rows, Quiet()))
    shared.save("actor", folder / "actor")
    del shared, loaded
    gc.collect()
    _ppo(case, recipe, folder / "actor", peaks)
    return peaks.found


def _ppo(case: Case, recipe: Any, start: Path, peaks: Peaks) -> None:
    """One update as PPO does it, after a short one."""
    import torch
    from ours import forced, learner

    from lite_huatuo.models import backends
    from lite_huatuo.models.shared_base import SharedBase
    from lite_huatuo.records import VerifiableProblem
    from lite_huatuo.training import rollout

    adapters = dict.fromkeys(("reference", "actor", "critic"), start)
    shared = SharedBase.from_adapters(backends.load(**recipe.base.model_dump()), adapters, ("actor", "critic"))
    if case.checkpointing:
        shared.enable_checkpointing()
    settings = recipe.ppo
    learns = learner(settings, shared)

    def write(rows: int, query: int, reply: int) -> Any:
        with shared.using("actor"):
            return rollout.generate(
                shared,
                [VerifiableProblem(str(i), f"question {i}", "answer") for i in range(rows)],
                [[5 + (i + n) % 250 for n in range(query)] for i in range(rows)],
                max_reply_length=reply,
                batch_size=rows,
                temperature=settings.rollout.temperature,
                choose=forced([reply] * rows, shared.tokenizer.end_id),
            )

    def score(episodes: Any) -> Any:
        return rollout.measure(
            shared,
            learns.head,
            episodes,
            temperature=settings.rollout.temperature,
            microbatch_tokens=settings.microbatch_tokens,
            sampled=shared.exact,
            trunk_layers=learns.coefficients.trunk_layers,
        )

    def learn(data: Any) -> None:
        numbers = torch.randn(data.values.shape)
        learns.learn(
            data,
            numbers,
            numbers,
            epochs=1,
            minibatches=1,
            target_kl=None,
            train_actor=True,
            factors=[1.0],
        )

    learn(score(write(1, 4, 4)))  # makes the optimisers' states
    episodes = peaks("rollout", lambda: write(case.rows, case.query, case.reply))
    data = peaks("scoring", lambda: score(episodes))
    peaks("update", lambda: learn(data))


def predicted(case: Case, model: Path) -> dict[str, int]:
    """Return the plan's bytes by phase, without Python and its libraries."""
    from lite_huatuo import recipe as recipes
    from lite_huatuo.planning import phases, plan
    from lite_huatuo.planning.cards import Card

    recipe = recipes.check(tree(case, model), "measured")
    found = plan.make(recipe, plan.shape_of(recipe)[0], Card("cpu", 0, gpu=False)).phases
    return {phase.name: phase.total - phases.PYTHON for phase in found}


def child(case: Case, work: Path) -> None:
    """Measure one case; print its peaks above the ground as JSON."""
    import torch

    from lite_huatuo.cli.train import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    tiny = {"hidden": 64, "intermediate": 96, "vocabulary": VOCABULARY, "heads": 4, "kv_heads": 2, "rank": 4}
    short = {"query": 8, "reply": 8, "rows": 2, "sft_rows": 1, "tokens": 16}
    small = Case(**{**asdict(case), **tiny, **short})
    make_model(small, work / "small")
    go_through(small, work / "small", work / "warm")
    _warm_up(case)
    gc.collect()
    from lite_huatuo.training import phases

    phases.reset_peak()
    ground = round((phases.peak_mib() or 0) * 2**20)
    found = go_through(case, work / "model", work / "run")
    print(json.dumps({"ground": ground, **{name: peak - ground for name, peak in found.items()}}))


def _warm_up(case: Case) -> None:
    """Let the library of matrix products take its buffers, about 10 MiB, whose size goes by that of the factors."""
    import torch

    for inputs, outputs in ((case.hidden, case.intermediate), (case.intermediate, case.hidden)):
        x = torch.ones(case.tokens, inputs, requires_grad=True)
        torch.nn.functional.linear(x, torch.ones(outputs, inputs)).sum().backward()


def measure(name: str, allocator: str) -> dict[str, Any]:
    """Make the network, measure in a fresh process, predict."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        me = [sys.executable, str(Path(__file__).resolve())]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run([*me, "--make", name, str(work)], check=True, capture_output=True, env=environment)
        if allocator == "exact":
            environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run([*me, "--child", name, str(work)], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        found = json.loads(done.stdout.strip().split("\n")[-1])
        return {"predicted": predicted(CASES[name], work / "model"), "measured": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--allocator", choices=["exact", "default"], default="exact")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_model(CASES[arguments.make[0]], Path(arguments.make[1]) / "model")
        return
    if arguments.child:
        child(CASES[arguments.child[0]], Path(arguments.child[1]))
        return
    told = {}
    print("MiB, predicted / measured (error)")
    for name in arguments.only:
        told[name] = found = measure(name, arguments.allocator)
        cells = []
        for phase in PHASES:
            guess, real = found["predicted"][phase], found["measured"][phase]
            cells.append(f"{phase} {guess / 2**20:.0f} / {real / 2**20:.0f} ({guess / real - 1:+.0%})")
        peaks = [max(found[kind][phase] for phase in PHASES) for kind in ("predicted", "measured")]
        print(f"{name}: peak {peaks[0] / 2**20:.0f} / {peaks[1] / 2**20:.0f} ({peaks[0] / peaks[1] - 1:+.1%}); "
              + ", ".join(cells), flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"allocator": arguments.allocator, "cases": told}, indent=1))


if __name__ == "__main__":
    main()
