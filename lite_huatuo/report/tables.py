"""The tables of the page, as plain lists of text; what was not measured is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lite_huatuo.report.reading import Row
from lite_huatuo.report.text import NOTHING, clean, duration, finite, memory, number, percent
from lite_huatuo.run_dir import STAGES
from lite_huatuo.training.metrics import METRICS
from lite_huatuo.verifier.metrics import wilson

PHASES = ("rollout", "scoring", "learning")


def heldout(summaries: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Return a row for base, SFT and SFT + PPO: shares with their counts, the right ones with a 95 % interval."""
    rows = []
    for stage, summary in summaries.items():
        problems, failed, hits = (int(max(0, finite(summary.get(key)) or 0)) for key in ("problems", "failed", "right"))
        judged = max(0, problems - failed)
        right = wilson(min(hits, judged), judged)
        error = finite(summary.get("score_standard_error"))
        rows.append(
            {
                "name": STAGES[stage],
                "right": right,
                "percent": percent(right.value),
                "interval": f"{percent(right.low)} to {percent(right.high)}" if right.n else NOTHING,
                "well_formed": f"{number(summary.get('well_formed'))} of {problems}",
                "score": number(summary.get("score")) + ("" if error is None else f" ± {number(error, 2)}"),
                "length": f"{number(summary.get('length'))} tokens",
                "failed": failed,
            }
        )
    return rows


def benchmarks(reports: Mapping[str, Mapping[str, Row]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return (stages, rows): a row for each benchmark with a cell for each stage that was evaluated."""
    stages = [stage for stage in STAGES if reports.get(stage)]
    names = dict.fromkeys(name for stage in stages for name in reports[stage])
    rows = []
    for name in names:
        found = [reports[stage].get(name) for stage in stages]
        title = next((summary.get("title") for summary in found if summary and summary.get("title")), name)
        rows.append({"name": clean(name), "title": clean(title), "cells": [_cell(summary) for summary in found]})
    return [STAGES[stage] for stage in stages], rows


def _cell(summary: Row | None) -> dict[str, str] | None:
    if not summary or finite(summary.get("accuracy")) is None:
        return None
    unread = summary.get("unread")
    share = unread.get("share") if isinstance(unread, dict) else None
    return {
        "accuracy": percent(summary["accuracy"]),
        "interval": f"{percent(summary.get('low'))} to {percent(summary.get('high'))}",
        "count": f"{number(summary.get('questions'))} questions, {percent(share)} unread",
        "rule": clean(summary.get("rule")),
    }


def phases(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return a row for each phase of an update: time in all, its share, time of one update, most memory."""
    seconds = {phase: _values(rows, f"time/{phase}_seconds") for phase in PHASES}
    whole = sum(sum(each) for each in seconds.values())
    return [
        {
            "name": phase,
            "total": duration(sum(each)),
            "share": percent(sum(each) / whole if whole else None),
            "mean": duration(sum(each) / len(each)),
            "memory": memory(max(_values(rows, f"memory/{phase}_mib"), default=None)),
        }
        for phase, each in seconds.items()
        if each
    ]


def peak(rows: Sequence[Row]) -> float | None:
    """Return the most memory that any phase used, in MiB."""
    return max((value for phase in PHASES for value in _values(rows, f"memory/{phase}_mib")), default=None)


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [value for row in rows if (value := finite(row.get(name))) is not None]


def stages(events: Sequence[Row]) -> list[dict[str, str]]:
    """Return when each stage started first and finished last, and how long that took, pauses included."""
    rows = []
    for stage in ("sft", "ppo"):
        started = [_time(event) for event in events if event.get("event") == f"{stage} started"]
        finished = [_time(event) for event in events if event.get("event") == f"{stage} finished"]
        if started:
            first, last = started[0], finished[-1] if finished else None
            spent = (last - first).total_seconds() if first and last else None
            rows.append(
                {
                    "name": stage.upper(),
                    "started": NOTHING if first is None else str(first),
                    "finished": NOTHING if last is None else str(last),
                    "spent": duration(spent),
                    "starts": str(len(started)),
                }
            )
    return rows


def seconds(events: Sequence[Row]) -> float | None:
    """Return the seconds from the first start of a stage to the last end of one; None where none has ended."""
    started = [_time(event) for event in events if str(event.get("event")).endswith(" started")]
    finished = [_time(event) for event in events if str(event.get("event")).endswith(" finished")]
    if not started or not finished or started[0] is None or finished[-1] is None:
        return None
    return (finished[-1] - started[0]).total_seconds()


def _time(event: Row) -> datetime | None:
    try:
        return datetime.strptime(str(event.get("time")), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return None


def warnings(events: Sequence[Row]) -> list[dict[str, str]]:
    """Return what the watch said, the newest first."""
    keys = ("update", "sign", "streak", "text")
    return [
        {key: clean(event.get(key, NOTHING)) for key in keys}
        for event in reversed(events)
        if event.get("event") == "watch"
    ]


def warned(events: Sequence[Row]) -> list[float]:
    """Return the updates at which the watch warned, each once."""
    found = (finite(event.get("update")) for event in events if event.get("event") == "watch")
    return sorted({update for update in found if update is not None})


def others(events: Sequence[Row]) -> list[dict[str, str]]:
    """Return the events that are no warning: when, what, details."""
    return [
        {
            "time": clean(event.get("time", NOTHING)),
            "event": clean(event.get("event", NOTHING)),
            "details": ", ".join(f"{clean(k)} {value(v)}" for k, v in event.items() if k not in ("time", "event")),
        }
        for event in events
        if event.get("event") != "watch"
    ]


def verifier(acceptance: Row) -> dict[str, Any] | None:
    """Return how good the verifier was on the shipped suite, None where it was not measured."""
    report = acceptance.get("report")
    if not isinstance(report, dict):
        return None
    rows = []
    for key in ("accuracy", "precision", "recall", "false_positive_rate"):
        share = report.get(key)
        if isinstance(share, dict) and finite(share.get("value")) is not None:
            interval = f"{percent(share.get('low'))} to {percent(share.get('high'))}"
            rows.append((key.replace("_", " "), percent(share["value"]), interval, number(share.get("n"))))
    below = acceptance.get("below_the_bar")
    return {
        "name": clean(acceptance.get("verifier")),
        "cases": number(report.get("n")),
        "below": clean(below) if below else "",
        "rows": rows,
    }


def sections(recipe: Row) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (section, [(key, value)]) of a recipe; inner keys are dotted, what stands alone is under "recipe"."""
    alone = [(clean(key), value(each)) for key, each in recipe.items() if not isinstance(each, dict)]
    inner = [(clean(key), flat(each)) for key, each in recipe.items() if isinstance(each, dict)]
    return [*([("recipe", alone)] if alone else []), *inner]


def flat(tree: Row, prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested dictionaries as (dotted key, text)."""
    rows = []
    for key, each in tree.items():
        name = f"{prefix}{clean(key)}"
        rows += flat(each, f"{name}.") if isinstance(each, dict) and each else [(name, value(each))]
    return rows


def value(each: Any) -> str:
    """Return a recipe's value as YAML would write it."""
    if each is None:
        return "null"
    if isinstance(each, bool):
        return str(each).lower()
    if isinstance(each, list):
        return f"[{', '.join(value(one) for one in each)}]"
    return f"{each:g}" if isinstance(each, float) else clean(each)


def metrics(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, str]]:
    """Return a row for each metric that was measured: first, last, least and greatest value, and what it means."""
    return [
        {
            "name": name,
            "first": number(values[0]),
            "last": number(values[-1]),
            "least": number(min(values)),
            "greatest": number(max(values)),
            "meaning": meaning,
        }
        for name, meaning in METRICS.items()
        if (values := [value for each in rows.values() for value in _values(each, name)])
    ]
