"""What predictions are worth: accuracy with its interval, how it varies, what could not be read. Pure functions.

A prediction is a row of predictions.py. Every reply counts: one that cannot be read, is empty or was cut is not right.
Only questions that got no reply at all (an endpoint failed) are in no share; they are counted.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lite_huatuo.evaluation import answers
from lite_huatuo.verifier.metrics import wilson

RESAMPLES = 10_000
_CHUNK = 2_000_000  # random numbers drawn at once


def summarise(rows: Sequence[Mapping[str, Any]], *, rule: str, seed: int = 0) -> dict[str, Any]:
    """Return the scores of one benchmark's predictions, one or several runs of each question.

    `accuracy` is by the declared rule. With one run its interval is Wilson's over the questions; with several it is a
    bootstrap over questions of their means, since replies to one question are no independent trials. `marks` counts the
    replies that have no final response because of a thinking mark, by what is wrong with it.
    """
    answered = [row for row in rows if row.get("failure") is None]
    runs = sorted({row["run"] for row in answered})
    by_run = {run: [row for row in answered if row["run"] == run] for run in runs}
    shuffled = any(row["shuffled"] for row in answered)
    per_run = {str(run): _accuracy(by_run[run], rule) for run in runs}
    values = [value for value in per_run.values() if value is not None]
    hits = sum(_right(row, rule) for row in answered)
    if len(runs) <= 1:
        share = asdict(wilson(hits, len(answered)))
        low, high, method = share["low"], share["high"], "wilson"
    else:
        low, high = bootstrap_mean(list(question_means(answered, rule).values()), seed=seed)
        method = "bootstrap over questions"
    lengths = [row["tokens"] for row in answered if row["tokens"] is not None]
    return {
        "questions": len({row["id"] for row in rows}),
        "replies": len(answered),
        "failed": len(rows) - len(answered),
        "rule": rule,
        "accuracy": hits / len(answered) if answered else None,
        "low": low,
        "high": high,
        "interval": method,
        "runs": per_run,
        "standard_error_over_runs": statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
        "shuffle_spread": max(values) - min(values) if shuffled and len(values) > 1 else None,
        "unread": _count(answered, lambda row: row["readings"][rule] is None),
        "empty": _count(answered, lambda row: not row["reply"].strip()),
        "cut": _count(answered, lambda row: not row["stopped"]),
        "marks": dict(Counter(filter(None, (answers.answering(row["reply"]).kind for row in answered)))),
        "by_rule": {name: _by_rule(answered, name) for name in (answered[0]["readings"] if answered else [rule])},
        "tokens_mean": statistics.fmean(lengths) if lengths else None,
        "tokens_median": statistics.median(lengths) if lengths else None,
    }


def question_means(rows: Sequence[Mapping[str, Any]], rule: str) -> dict[str, float]:
    """Return the share of right replies to each question, by id."""
    grouped: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        grouped[row["id"]].append(_right(row, rule))
    return {id: statistics.fmean(values) for id, values in grouped.items()}


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of values, drawn anew with the seed; of none (0, 1)."""
    if not values:
        return 0.0, 1.0
    means = resampled_means(values, seed=seed, resamples=resamples)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def resampled_means(values: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return the means (resamples,) of samples of the values' own number, drawn with replacement."""
    array, generator = np.asarray(values, dtype=float), np.random.default_rng(seed)
    step = max(1, _CHUNK // len(array))
    parts = [
        array[generator.integers(0, len(array), (min(step, resamples - start), len(array)))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


def _right(row: Mapping[str, Any], rule: str) -> bool:
    return row["readings"][rule] == row["right"]


def _accuracy(rows: Sequence[Mapping[str, Any]], rule: str) -> float | None:
    return sum(_right(row, rule) for row in rows) / len(rows) if rows else None


def _by_rule(rows: Sequence[Mapping[str, Any]], rule: str) -> dict[str, Any]:
    unread = sum(row["readings"][rule] is None for row in rows)
    return {"accuracy": _accuracy(rows, rule), "unread_share": unread / len(rows) if rows else None}


def _count(rows: Sequence[Mapping[str, Any]], test: Any) -> dict[str, Any]:
    """Return how many replies a test holds for, and their share."""
    count = sum(bool(test(row)) for row in rows)
    return {"count": count, "share": count / len(rows) if rows else None}
