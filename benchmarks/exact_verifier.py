"""Measure the exact verifier beside plain containment: on human labels, the shipped suite and pairs; and its speed.

    python benchmarks/exact_verifier.py --data DIR [--json] [--misses]

DIR is a folder of judged files: judged/evouna_tq.jsonl, judged/evouna_nq.jsonl and judged/kqa.jsonl, one JSON object a
line with id, question, reference, response and label (true where a human called the response right); and
upstream_sample/medical_o1_sample.json, a list of rows with Question, Response and "Ground-True Answer".

The rules were first written while looking at evouna_tq and the even rows of the sample (development). The misses of
evouna_nq have been read since, and rules added for them: it is no test any more. The odd rows were seen where a change
turned a verdict; kqa is the test. Containment: the ground truth, or one of its halves at "/", is a substring of the
reply. Intervals are Wilson's, at 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lite_huatuo.verifier import suite
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.exact import ExactVerifier, normalise

Judge = Callable[[Sequence[Item]], list[Verdict]]
SEED = 0
JUDGED = {"evouna_tq": "development", "evouna_nq": "seen", "kqa": "test"}
Row = dict[str, object]


def wilson(hits: int, n: int, z: float = 1.96) -> dict[str, float | int]:
    """Return hits / n with its 95 % Wilson interval."""
    if n == 0:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "hits": 0, "n": 0}
    share, spread = hits / n, z * math.sqrt(hits * (n - hits) / n**3 + z * z / (4 * n * n))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return {"value": share, "low": max(0.0, low), "high": min(1.0, high), "hits": hits, "n": n}


def contains(items: Sequence[Item]) -> list[Verdict]:
    """The baseline: is the ground truth, or one of its halves at "/", a substring of the reply, whatever the case?"""
    return [
        Verdict(
            any(half and half in item.final_response.casefold() for half in item.ground_truth.casefold().split("/"))
        )
        for item in items
    ]


def read_judged(path: Path) -> list[tuple[Item, bool]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return [(Item(row["question"], row["response"], row["reference"]), bool(row["label"])) for row in rows]


def against_labels(name: str, cases: list[tuple[Item, bool]], judge: Judge, misses: bool = False) -> Row:
    """Compare the verdicts with labels."""
    verdicts = judge([item for item, _ in cases])
    assert all(verdict.failure is None for verdict in verdicts), "a judged file holds an empty reference"
    said, held = [bool(verdict.correct) for verdict in verdicts], [label for _, label in cases]
    both = sum(a and b for a, b in zip(said, held, strict=True))
    if misses:
        for (item, label), verdict in zip(cases, verdicts, strict=True):
            if verdict.correct != label:
                show(name, verdict, item.ground_truth, item.final_response)
    return {
        "n": len(cases),
        "right by label": sum(held),
        "accuracy": wilson(sum(a == b for a, b in zip(said, held, strict=True)), len(cases)),
        "precision": wilson(both, sum(said)),
        "recall": wilson(both, sum(held)),
        "false positive rate": wilson(sum(said) - both, len(cases) - sum(held)),
    }


def show(name: str, verdict: Verdict, reference: str, response: str) -> None:
    kind = "false positive" if verdict.correct else "miss"
    print(f"{name} | {kind} | {verdict.raw} | {reference[:120]} | {' '.join(response.split())[:240]}")


def pairs_of_sample(rows: list[dict[str, str]], judge: Judge, misses: bool = False) -> Row:
    """Judge every response against its own ground truth, against a shuffled one, and against every other one."""
    truths = [row["Ground-True Answer"] for row in rows]
    own = judge([Item(row["Question"], row["Response"], row["Ground-True Answer"]) for row in rows])
    order = list(range(len(rows)))
    random.Random(SEED).shuffle(order)
    shuffled = []
    for place, k in enumerate(order):
        others = (order[(place + step) % len(order)] for step in range(1, len(order)))
        other = next(j for j in others if normalise(truths[j]) != normalise(truths[k]))
        shuffled.append(Item(rows[k]["Question"], rows[k]["Response"], truths[other]))
    every = [
        Item(row["Question"], row["Response"], truth)
        for row in rows
        for truth in truths
        if normalise(truth) != normalise(row["Ground-True Answer"])
    ]
    if misses:
        for row, verdict in zip(rows, own, strict=True):
            if not verdict.correct:
                show("sample", verdict, row["Ground-True Answer"], row["Response"])
        for item, verdict in zip(every, judge(every), strict=True):
            if verdict.correct:
                show("mismatched", verdict, item.ground_truth, item.final_response)
    verdicts = {"own": own, "shuffled": judge(shuffled), "every other": judge(every)}
    return {
        f"accepted, {whose} ground truth": wilson(sum(bool(v.correct) for v in found), len(found))
        for whose, found in verdicts.items()
    }


def speed(path: Path) -> Row:
    """Time one pass over the judged short answers, ground truths read afresh."""
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    items = [Item(row["question"], row["response"], row["reference"]) for row in rows]
    start = time.perf_counter()
    ExactVerifier().verify(items)
    first = time.perf_counter() - start
    start = time.perf_counter()
    ExactVerifier().verify(items)
    return {
        "items per second, first pass": round(len(items) / first),
        "items per second, ground truths cached": round(len(items) / (time.perf_counter() - start)),
    }


JUDGES: dict[str, Judge] = {"exact": ExactVerifier().verify, "containment": contains}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder of judged files")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--misses", action="store_true", help="print every disagreement first")
    options = parser.parse_args()
    judged = options.data / "judged"
    report: dict[str, Row] = {"speed": speed(judged / "evouna_nq.jsonl")}  # first, while no ground truth is cached
    for name, split in JUDGED.items():
        shown = options.misses and split == "development"
        cases = read_judged(judged / f"{name}.jsonl")
        for judge_name, judge in JUDGES.items():
            mine = shown and judge_name == "exact"
            report[f"{name} ({split}), {judge_name}"] = against_labels(name, cases, judge, mine)
    sample = json.loads((options.data / "upstream_sample" / "medical_o1_sample.json").read_text("utf-8"))
    for judge_name, judge in JUDGES.items():
        report[f"suite, {judge_name}"] = against_labels("suite", [(c.item, c.label) for c in suite.load()], judge)
        mine = options.misses and judge_name == "exact"
        report[f"sample, even rows (development), {judge_name}"] = pairs_of_sample(sample[0::2], judge, mine)
        report[f"sample, odd rows (test), {judge_name}"] = pairs_of_sample(sample[1::2], judge)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for name, figures in report.items():
        for what, figure in figures.items():
            text = (
                f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]  {figure['hits']}/{figure['n']}"
                if isinstance(figure, dict)
                else str(figure)
            )
            print(f"| {name} | {what} | {text} |")


if __name__ == "__main__":
    main()
