"""Which of two students is better: paired on the questions that both answered, per benchmark and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite_huatuo.errors import RecordError
from lite_huatuo.evaluation import predictions
from lite_huatuo.evaluation.score import question_means, resampled_means

ALPHA = 0.05
# Settings that make two scores comparable; the others (sampling, what wrote the replies) may differ.
_SAME = ("version", "prompt", "rule", "shuffle")


@dataclass(frozen=True)
class Paired:
    """The first beside the second on `n` common questions. Shares; `difference` is second minus first, with its 95 %
    bootstrap interval over questions. `only_first`: questions on which the first was better, and so on; `p`: exact
    McNemar test of those two counts (for several runs of a question the better mean counts: a sign test)."""

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two folders of predictions. `overall`'s shares are means over benchmarks, as in the paper's table, its counts and
    `p` are over all questions. `notes` tell what differs and was left out."""

    benchmarks: dict[str, Paired]
    overall: Paired
    notes: list[str]

    def report(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "benchmarks": {name: asdict(paired) for name, paired in self.benchmarks.items()},
            "overall": asdict(self.overall),
            "notes": self.notes,
        }


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test: a fair coin on the questions where the two differ; 1 for none."""
    n, least = only_first + only_second, min(only_first, only_second)
    ways, tail = 1, 0  # n over k, and their sum: whole numbers, so nothing is rounded before the end
    for k in range(least + 1):
        tail, ways = tail + ways, ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def paired(first: Mapping[str, float], second: Mapping[str, float], *, seed: int = 0) -> Paired:
    """Compare the shares of right replies to the same questions; both must have the same ids, at least one."""
    assert set(first) == set(second), "the same questions"
    assert first, "at least one question"
    gaps = [second[id] - first[id] for id in first]
    means = resampled_means(gaps, seed=seed)
    return _paired(list(first.values()), list(second.values()), float(np.mean(gaps)), means, gaps)


def compare(first: Path, second: Path, *, only: Sequence[str] = (), seed: int = 0) -> Comparison:
    """Compare the predictions in two folders on the benchmarks, questions and runs that both have.

    RecordError where nothing is common, where a benchmark was asked or is scored in another way, or where a question
    was another one.
    """
    there = [_there(folder) for folder in (first, second)]
    common = sorted((there[0] & there[1]) & set(only or there[0]))
    if not common:
        raise RecordError(
            f"{first} ({', '.join(sorted(there[0]))}) and {second} ({', '.join(sorted(there[1]))}): no benchmark in "
            f"common{' of those asked for' if only else ''}; evaluate both on the same"
        )
    notes = [f"{name}: only in {first}" for name in sorted(there[0] - there[1])]
    notes += [f"{name}: only in {second}" for name in sorted(there[1] - there[0])]
    scores = {name: _common(first, second, name, notes) for name in common}
    found = {name: paired(*pair, seed=seed) for name, pair in scores.items()}
    return Comparison(found, _overall(found, scores, seed), notes)


def gate(comparison: Comparison, *, alpha: float = ALPHA) -> list[str]:
    """Return why the second must not stand for the first: it is significantly below it, over all questions or, with
    Holm's correction, on a benchmark. Empty where it may."""
    reasons = []
    if comparison.overall.p < alpha and comparison.overall.only_second < comparison.overall.only_first:
        reasons.append(f"over all questions: {_told(comparison.overall)}")
    order = sorted(comparison.benchmarks.items(), key=lambda item: item[1].p)
    for place, (name, each) in enumerate(order):
        if each.p >= alpha / (len(order) - place):
            break
        if each.only_second < each.only_first:
            reasons.append(f"{name}: {_told(each)}")
    return reasons


def _there(folder: Path) -> set[str]:
    """Return the benchmarks a folder has predictions of."""
    found = {path.name.removesuffix(predictions.SETTINGS) for path in folder.glob(f"*{predictions.SETTINGS}")}
    if not found:
        raise RecordError(f"{folder}: no evaluation here; run `lite-huatuo eval` on it first")
    return found


def _common(first: Path, second: Path, name: str, notes: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each question's share of right replies in both folders, over the questions and runs that both have."""
    before, after = (predictions.read_settings(folder, name) for folder in (first, second))
    for setting, old, new in predictions.differences(before, after):
        told = f"{name}: {setting} is {old} in {first} and {new} in {second}"
        if setting in _SAME:
            raise RecordError(f"{told}; evaluate one of them again")
        if not setting.startswith("target."):
            notes.append(told)
    rows = [
        {(row["id"], row["run"]): row for row in predictions.read(folder / f"{name}.jsonl")}
        for folder in (first, second)
    ]
    both = sorted(set(rows[0]) & set(rows[1]))
    if not both:
        raise RecordError(f"{name}: no question was answered in both {first} and {second}")
    for key in both:
        if rows[0][key]["asked"] != rows[1][key]["asked"]:
            raise RecordError(f"{name}: question {key[0]} is another one in {first} than in {second}; evaluate again")
    for folder, mine in zip((first, second), rows, strict=True):
        if len(mine) > len(both):
            notes.append(f"{name}: {len(mine) - len(both)} replies are only in {folder} and were left out")
    means = [question_means([side[key] for key in both], before["rule"]) for side in rows]
    return means[0], means[1]


def _overall(
    found: Mapping[str, Paired], scores: Mapping[str, tuple[dict[str, float], dict[str, float]]], seed: int
) -> Paired:
    """Return the comparison over all benchmarks: each is resampled by itself, as it was chosen by itself."""
    gaps = [[second[id] - first[id] for id in first] for first, second in scores.values()]
    means = np.mean([resampled_means(each, seed=seed + place) for place, each in enumerate(gaps)], axis=0)
    firsts, seconds = [each.first for each in found.values()], [each.second for each in found.values()]
    return _paired(
        firsts,
        seconds,
        float(np.mean([each.difference for each in found.values()])),
        means,
        [gap for each in gaps for gap in each],
    )


def _paired(
    firsts: Sequence[float], seconds: Sequence[float], difference: float, means: Any, gaps: Sequence[float]
) -> Paired:
    worse, better = sum(gap < 0 for gap in gaps), sum(gap > 0 for gap in gaps)
    low, high = np.quantile(means, (0.025, 0.975))
    return Paired(
        n=len(gaps),
        first=float(np.mean(firsts)),
        second=float(np.mean(seconds)),
        difference=difference,
        low=float(low),
        high=float(high),
        only_first=worse,
        only_second=better,
        p=mcnemar(worse, better),
    )


def _told(each: Paired) -> str:
    return (
        f"{100 * each.second:.1f} after {100 * each.first:.1f} % ({each.only_first} questions lost, {each.only_second} "
        f"won, McNemar p {each.p:.2g})"
    )
