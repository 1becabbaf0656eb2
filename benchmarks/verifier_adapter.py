"""Cross-validate a verifier adapter on judged replies, beside the exact verifier and beside one cut of the nearness.

    python benchmarks/verifier_adapter.py FILE… --runs DIR [--folds 2] [--epochs 2] [--pilot] [--suite] [--json]

FILE holds JSON lines with question, reference (or ground_truth), response (or final_response) and label, a human's
verdict; the figures of the documentation are those of the EVOUNA files. Questions are parted by a hash:

- development (`--development`, a share of the questions): what settings and the judge's text are chosen on. `--pilot`
  trains on rows that are not of it and judges it. In the reported run it is always trained on and never judged.
- folds: each fold is judged by an adapter that was trained, through `training.verifier_train`, on the other folds and
  the development rows, of which a tenth of the questions is kept to fit the temperature. Of the rows that `exact` calls
  right, nearly all are, and a share (`--easy`) is enough to learn that from; all are judged.

No adapter judges a question that it was trained on. *Cut* is the second baseline: right where `exact` says so or the
nearness that stands in the judge's text reaches a cut, which is chosen on the rows that the adapter is trained on.
Single shares have 95 % Wilson intervals; the difference of accuracies has a bootstrap interval over questions, and the
rows that only one of the two judged rightly are counted (McNemar, exact and two-sided). With `--suite` each fold's
adapter also judges the shipped suite. Folds that stand in `--runs` are read, not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from lite_huatuo import recipe as recipes
from lite_huatuo.cli.train import quiet_libraries
from lite_huatuo.models import backends
from lite_huatuo.prompts import tuned_judge
from lite_huatuo.training import verifier_train
from lite_huatuo.verifier import acceptance, exact, metrics, suite
from lite_huatuo.verifier.adapter import AdapterVerifier, encode
from lite_huatuo.verifier.suite import Case

RESAMPLES = 10_000
Row = dict[str, Any]


class Log:
    """A listener that writes to stderr, now and then."""

    def __init__(self) -> None:
        self.done = self.total = 0

    def start(self, what: str, total: int) -> None:
        self.done, self.total, self.began = 0, total, time.perf_counter()

    def advance(self, units: int = 1, **figures: float) -> None:
        self.done += units
        if figures:
            print(f"{self.done}/{self.total} {time.perf_counter() - self.began:.0f} s {figures}", file=sys.stderr)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)


def place(question: str, purpose: str) -> float:
    """Return a question's place in [0, 1), the same in every run."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{question}".encode()).digest()[:8], "big") / 2**64


def near(case: Case) -> float:
    return tuned_judge.nearest_aliases(case.ground_truth, case.final_response, case.question)[1]


def choose_cut(cases: Sequence[Case]) -> float:
    """Return the nearness from which on most of these rows are judged rightly."""
    known = [(bool(exact.judge(case.item).correct), near(case), case.label) for case in cases]
    cuts = [k / 20 for k in range(22)]  # 1.05: none is rescued
    return max(cuts, key=lambda cut: (sum((said or n >= cut) == label for said, n, label in known), cut))


def fold(options: argparse.Namespace, name: str, rest: list[Case], judged: list[Case]) -> tuple[list[Row], Row]:
    """Train on `rest`, judge `judged`, unless that was done; return its verdict rows and what the training took."""
    path = options.runs / f"{name}.json"
    if path.is_file():
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    recipe = recipes.load(options.recipe, tuple(options.set))
    loaded = backends.load(**recipe.base.model_dump())
    kept = [case for case in rest if place(case.question, "calibration") < 0.1]
    learnt = [case for case in rest if place(case.question, "calibration") >= 0.1]
    learnt = [case for case in learnt if not exact.judge(case.item).correct or place(case.id, "easy") < options.easy]
    shape = {name: getattr(recipe.adapter, name) for name in ("rank", "alpha", "targets")}
    began = time.perf_counter()
    verifier = verifier_train.train(
        loaded, verifier_train.Parts(learnt, kept, judged), mode=options.mode, **shape, epochs=options.epochs,
        batch_size=options.batch_size, learning_rate=options.learning_rate, max_length=options.max_length,
        microbatch_tokens=options.microbatch_tokens, threshold=0.5, seed=options.seed, progress=Log(),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    probabilities = verifier.probabilities([case.item for case in judged])
    judging = time.perf_counter() - began
    cut = choose_cut(rest)
    rows = [
        {
            "id": case.id, "question": case.question, "label": case.label,
            "exact": bool(exact.judge(case.item).correct), "cut": bool(exact.judge(case.item).correct)
            or near(case) >= cut, "adapter": p > 0.5, "probability": p,
        }
        for case, p in zip(judged, probabilities, strict=True)
    ]  # fmt: skip
    tokens = sum(len(encode(loaded.tokenizer, case.item, options.max_length)) for case in learnt) * options.epochs
    told = {
        "trained on": len(learnt), "calibrated on": len(kept), "judged": len(judged), "training, s": seconds,
        "training, tokens/s": tokens / seconds, "judging, rows/s": len(judged) / judging, "cut": cut,
        "temperature": verifier.settings.temperature, "suite": on_suite(verifier) if options.suite else None,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([rows, told]), encoding="utf-8")
    return rows, told


def on_suite(verifier: AdapterVerifier) -> Row:
    """Return the verifier's shares on the shipped suite."""
    report = acceptance.report(acceptance.judge(verifier, suite.load()))
    return {name: report[name] for name in ("accuracy", "recall", "false_positive_rate", "false_positives_by_attack")}


def compare(rows: Sequence[Row]) -> Row:
    """Return the shares of all judges on these rows, and the adapter's against the others'."""
    labels = [row["label"] for row in rows]
    found: Row = {
        name: metrics.confusion(labels, [row[name] for row in rows]).report() for name in ("exact", "cut", "adapter")
    }
    found["log loss"] = -sum(
        math.log(max(1e-6, row["probability"] if row["label"] else 1 - row["probability"])) for row in rows
    ) / len(rows)
    for other in ("exact", "cut"):
        found[f"adapter - {other}"] = difference(rows, other)
    return found


def difference(rows: Sequence[Row], other: str) -> Row:
    """Return adapter minus other in accuracy, with its bootstrap interval over questions, and McNemar's test."""
    gains: dict[str, list[int]] = {}
    for row in rows:
        gains.setdefault(row["question"], []).append((row["adapter"] == row["label"]) - (row[other] == row["label"]))
    groups, rng = [(sum(group), len(group)) for group in gains.values()], random.Random(0)
    drawn = []
    for _ in range(RESAMPLES):
        sample = rng.choices(groups, k=len(groups))
        drawn.append(sum(gain for gain, _ in sample) / sum(size for _, size in sample))
    drawn.sort()
    every = [gain for group in gains.values() for gain in group]
    won, lost = every.count(1), every.count(-1)
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    return {
        "value": sum(every) / len(every), "low": drawn[int(0.025 * RESAMPLES)], "high": drawn[int(0.975 * RESAMPLES)],
        "only adapter": won, "only other": lost, "McNemar p": min(1.0, 2 * tail),
    }  # fmt: skip


def table(report: Row) -> None:
    print("| rows | n | judge | accuracy | precision | recall | false positive rate |\n|---|---|---|---|---|---|---|")
    for name, found in report["compared"].items():
        for judge in ("exact", "cut", "adapter"):
            shares = [found[judge][kind] for kind in ("accuracy", "precision", "recall", "false_positive_rate")]
            cells = [f"{s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in shares if s["value"] is not None]
            print(f"| {name} | {found[judge]['n']} | {judge} | {' | '.join(cells)} |")
    print("\n| rows | difference of accuracy | 95 % | only the adapter right | only the other right | McNemar p |")
    print("|---|---|---|---|---|---|")
    for name, found in report["compared"].items():
        for other in ("exact", "cut"):
            d = found[f"adapter - {other}"]
            print(
                f"| {name}, adapter - {other} | {d['value']:+.3f} | {d['low']:+.3f} to {d['high']:+.3f} "
                f"| {d['only adapter']} | {d['only other']} | {d['McNemar p']:.1e} |"
            )
    for told in report["folds"]:
        on_suite = {key: share for key, share in (told["suite"] or {}).items() if key != "false_positives_by_attack"}
        print(json.dumps({**told, "suite": on_suite}))
    print(json.dumps(report["run"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--recipe", default="demo", help="whose base and adapter shape it has")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--development", type=float, default=0.25, help="share of the questions that is never reported")
    parser.add_argument("--pilot", action="store_true", help="judge the development rows, after training on others")
    parser.add_argument("--most", type=int, help="of the rows to train on, with --pilot")
    parser.add_argument("--easy", type=float, default=0.25, help="share trained on, of the rows that exact calls right")
    parser.add_argument("--suite", action="store_true", help="judge the shipped suite as well")
    parser.add_argument("--mode", choices=["head", "token"], default="head")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--microbatch-tokens", type=int, default=768)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, required=True, help="folder of finished folds; those in it are only read")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    return parser.parse_args()


def main() -> None:
    options = parse()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    files = {path.stem: acceptance.read_judged(path) for path in options.files}
    names = {case.id: name for name, cases in files.items() for case in cases}
    cases = [case for part in files.values() for case in part]
    mine = [case for case in cases if place(case.question, "pilot") < options.development]
    others = [case for case in cases if place(case.question, "pilot") >= options.development]
    parts = [
        [case for case in others if int(place(case.question, "fold") * options.folds) == k]
        for k in range(options.folds)
    ]
    began = time.perf_counter()
    if options.pilot:
        done = [fold(options, "pilot", others[:: max(1, len(others) // (options.most or len(others)))], mine)]
    else:
        learnt = [[*mine, *(case for case in others if case not in part)] for part in parts]
        done = [fold(options, f"fold-{k}", learnt[k], part) for k, part in enumerate(parts)]
    rows = [row for verdicts, _ in done for row in verdicts]
    groups = {"all": rows, **{name: [row for row in rows if names[row["id"]] == name] for name in files}}
    report = {
        "compared": {name: compare(group) for name, group in groups.items()},
        "folds": [told for _, told in done],
        "run": {
            "seconds": round(time.perf_counter() - began), "machine": platform.processor() or platform.machine(),
            "threads": options.threads, "torch": torch.__version__, "transformers": transformers.__version__,
            "peft": peft.__version__, "options": {k: str(v) for k, v in vars(options).items() if k != "files"},
        },
    }  # fmt: skip
    print(json.dumps(report, indent=1)) if options.json else table(report)


if __name__ == "__main__":
    main()
