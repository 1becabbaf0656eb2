"""Two claims about verifiers in PPO. A judge that waits works beside the scoring passes: both together take less than
one after the other. A verifier adapter on the shared base costs the memory of its own parameters and no more.

    python benchmarks/verifier.py --repeats 7 --judge-ms 300
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.response_format import render
from lite_huatuo.training import rollout
from lite_huatuo.training.rollout import Episode
from lite_huatuo.verifier.base import Item, Verdict
from tests import tiny


class Slow:
    """A judge that takes its time, as one behind an endpoint does."""

    name, background = "slow", True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        time.sleep(self.seconds)
        return [Verdict(True) for _ in items]


def adapter(files: dict[str, str], folder: Path) -> Path:
    """Save a fresh adapter."""
    shared = SharedBase.fresh(backends.load(files["model"]), "actor", rank=16, alpha=32, targets="all-linear")
    shared.save("actor", folder / "actor")
    return folder / "actor"


def episodes(shared: SharedBase, count: int) -> list[Episode]:
    words = shared.tokenizer
    made = []
    for i in range(count):
        text = render("It is fever. Then wait. " * (1 + i % 4), "rest")
        problem = VerifiableProblem(str(i), f"Patient {i} has fever. Which cure?", "rest")
        made.append(Episode(problem, words.query(problem.question), words.reply(text), True, text))
    return made


def median(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of some runs after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def overlap(shared: SharedBase, repeats: int, judge: Slow) -> dict[str, float]:
    head, made = ValueHead(shared.hidden_size), episodes(shared, 64)

    def score() -> None:
        rollout.measure(shared, head, made, temperature=1.0, microbatch_tokens=2048)

    def both() -> None:
        with rollout.judging(made, judge):
            score()

    scoring, together = median(score, repeats), median(both, repeats)
    one_after_the_other = scoring + judge.seconds
    return {
        "scoring passes, s": scoring,
        "judge, s": judge.seconds,
        "together, s": together,
        "together / one after the other": together / one_after_the_other,
    }


def parameter_bytes(shared: SharedBase) -> int:
    """Return the bytes of all parameters, each storage counted once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in shared.peft.parameters()}
    return sum(storages.values())


def memory(files: dict[str, str], folder: Path) -> dict[str, float]:
    three = {"reference": folder, "actor": folder, "critic": folder}
    without = SharedBase.from_adapters(backends.load(files["model"]), three, ("actor", "critic"))
    four = SharedBase.from_adapters(backends.load(files["model"]), {**three, "verifier": folder}, ("actor", "critic"))
    own = sum(p.numel() * p.element_size() for p in four.parameters("verifier").values())
    extra = parameter_bytes(four) - parameter_bytes(without)
    return {"verifier adapter, bytes": own, "extra with it, bytes": extra, "extra / adapter": extra / own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--judge-ms", type=float, default=300.0)
    parser.add_argument("--hidden", type=int, default=256, help="of the random model")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        files = tiny.write_toy(Path(name) / "toy", hidden=arguments.hidden)
        folder = adapter(files, Path(name))
        three = {"reference": folder, "actor": folder, "critic": folder}
        shared = SharedBase.from_adapters(backends.load(files["model"]), three, ("actor", "critic"))
        found = {**overlap(shared, arguments.repeats, Slow(arguments.judge_ms / 1000)), **memory(files, folder)}
    print(json.dumps(found) if arguments.json else "\n".join(f"{name}: {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
