"""What a finished run shows: the result table, its curves in a line each, one sample answer."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from rich.table import Table

from lite_huatuo import jsonl
from lite_huatuo.run_dir import STAGES, RunDir

BARS = "▁▂▃▄▅▆▇█"
CURVES = (("sft", "sft/loss"), ("ppo", "score/mean"), ("ppo", "score/form_share"), ("ppo", "reference/kl_per_token"))


def table(report: dict[str, dict[str, Any]]) -> Table:
    """Return a rich table of a run's eval/report.json; every share with its count."""
    drawn = Table(title="Held-out problems, greedy replies", title_justify="left")
    for name in ("", "well-formed", "mean score", "verified right", "mean reply length"):
        drawn.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for key, label in STAGES.items():
        if key in report:
            try:
                drawn.add_row(label, *cells(report[key]))
            except (KeyError, TypeError, ValueError, AttributeError):  # edited, or of another version
                drawn.add_row(label, "unreadable", "-", "-", "-")
    return drawn


def cells(summary: dict[str, Any]) -> list[str]:
    """Return the four cells of one row."""
    n, judged = summary["problems"], summary["problems"] - summary["failed"]
    return [
        _share(summary["well_formed"], n),
        f"{_number(summary['score'])} ± {_number(summary['score_standard_error'])} (n={judged})",
        _share(summary["right"], judged),
        f"{summary['length']:.0f} tokens (n={n})",
    ]


def _number(value: float | None) -> str:
    """Return a number, "-" where too few were judged to have it."""
    return "-" if value is None else f"{value:.3f}"


def _share(count: int, total: int) -> str:
    return f"{count / total:.2f} ({count}/{total})" if total else "-"


def curves(run: RunDir) -> list[str]:
    """Return one line for each of a few metrics: its course, first and last value."""
    lines = []
    for stage, name in CURVES:
        path = run.stage(stage) / "metrics.jsonl"
        found = [row.get(name) for _, row in jsonl.iter_rows(path)] if path.exists() else []
        values = [float(value) for value in found if _is_number(value)]
        if values:
            lines.append(f"{name:<24} {sparkline(values)}  {values[0]:.3g} → {values[-1]:.3g}")
    return lines


def _is_number(value: Any) -> TypeGuard[int | float]:
    """True for a number that can be drawn: metrics files may be damaged, and a gap is NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sparkline(values: list[float], width: int = 40) -> str:
    """Return the values as bars between their least and greatest, at most `width` of them, evenly chosen."""
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    low, span = min(values), max(values) - min(values)
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1)) if span else 0] for value in values)


def sample(run: RunDir) -> str:
    """Return one held-out question with the newest student's reply and verdict: a right one where there is one."""
    paths = [run.path / "eval" / f"heldout.{name}.jsonl" for name in ("ppo", "sft")]
    path = next((path for path in paths if path.exists()), None)
    rows = [row for _, row in jsonl.iter_rows(path)] if path else []
    if not rows:
        return ""
    best = max(
        rows, key=lambda row: (row["score"] if _is_number(row.get("score")) else 0.0, bool(row.get("well_formed")))
    )
    score = f"score {best['score']}" if _is_number(best.get("score")) else "not judged"
    texts = {name: best.get(name, "(missing)") for name in ("question", "reply", "ground_truth")}
    return f"Question: {texts['question']}\n\n{texts['reply']}\n\n({score}; ground truth: {texts['ground_truth']})"
