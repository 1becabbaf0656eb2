"""Evaluate: ask a benchmark's questions, keep every reply as it comes, say what they are worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.errors import ReplyError
from lite_huatuo.evaluation import benchmarks, predictions, score
from lite_huatuo.evaluation.benchmarks import Benchmark, Loaded
from lite_huatuo.evaluation.predictions import Predictions
from lite_huatuo.evaluation.targets import Ask, Sampling, Writer, Written
from lite_huatuo.training.progress import Progress


def evaluate(
    writer: Writer,
    name: str,
    benchmark: Benchmark,
    loaded: Loaded,
    folder: Path,
    *,
    sampling: Sampling,
    progress: Progress,
    runs: int = 1,
    shuffle: bool = False,
    limit: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Return the summary of a benchmark, asking only for replies that are not kept yet; add it to report.json.

    More questions (`limit`) or runs than before ask for the new ones only. Kept predictions with other settings are
    refused. ReplyError where no question got a reply.
    """
    kept = Predictions(folder, name)
    kept.open(settings(writer, name, benchmark, sampling, shuffle), overwrite=overwrite)
    chosen = benchmarks.draw(loaded.questions, limit)
    asked = {}
    for run in range(runs):
        for question in chosen:
            arranged = benchmarks.arrange(question, run, shuffle=shuffle)
            asked[Ask(question.id, run, benchmarks.ask(benchmark, arranged))] = arranged
    missing = [each for each in asked if not kept.has(each.id, each.run, predictions.digest(each.prompt))]
    failures: list[dict[str, Any]] = []

    def keep(written: Sequence[tuple[Ask, Written]]) -> None:
        rows = [_row(each, asked[each], reply, shuffle, benchmark.rule) for each, reply in written]
        failures.extend(row for row in rows if row["failure"] is not None)
        kept.keep([_without_failure(row) for row in rows if row["failure"] is None])
        progress.advance(len(rows))

    progress.start(f"{name}", len(asked))
    progress.advance(len(asked) - len(missing))
    if missing:
        writer.write(missing, replace(sampling, salt=kept.salt), keep)
    kept.read_again(benchmark.rule)
    rows = [kept.rows[key] for each in asked if (key := (each.id, each.run)) in kept.rows]
    if not rows:
        raise ReplyError(f"{name}: no question got a reply; the first: {failures[0]['failure']}")
    summary = {
        "title": benchmark.title,
        "version": benchmark.version,
        "column": benchmark.column,
        "prompt": benchmark.prompt,
        "refused_rows": len(loaded.refused),
        **score.summarise([*rows, *failures], rule=benchmark.rule),
        "failures": dict(Counter(row["failure"] for row in failures).most_common(3)),
        "settings": settings(writer, name, benchmark, sampling, shuffle),
    }
    report = {**predictions.read_report(folder), name: summary}
    jsonl.write_text(folder / predictions.REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return summary


def settings(writer: Writer, name: str, benchmark: Benchmark, sampling: Sampling, shuffle: bool) -> dict[str, Any]:
    """Return all that changes a score, beside the questions: their texts are held against each kept reply."""
    return {
        "benchmark": name,
        "version": benchmark.version,
        "prompt": benchmark.prompt,
        "rule": benchmark.rule,
        "shuffle": shuffle,
        **{f"target.{key}": value for key, value in writer.identity.items()},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed if sampling.temperature else None,
    }


def _row(each: Ask, question: Any, written: Written, shuffle: bool, rule: str) -> dict[str, Any]:
    return predictions.row(
        question,
        run=each.run,
        asked=predictions.digest(each.prompt),
        shuffled=shuffle,
        rule=rule,
        reply=written.reply,
        tokens=written.tokens,
        stopped=written.stopped,
        failure=written.failure,
    )


def _without_failure(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a reply as it is kept; what failed is not kept, so that it is asked again."""
    return {key: value for key, value in row.items() if key != "failure"}
