"""What `eval` and `compare` print: scores with their intervals, the paper's table, differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from lite_huatuo.evaluation import predictions
from lite_huatuo.evaluation import table as papers
from lite_huatuo.run_dir import STAGES

NAME = 30  # characters of a target's name in the paper's table


def table(title: str, report: dict[str, Any]) -> Table:
    """Return the scores of one target, a benchmark a row."""
    drawn = Table(title=f"{title}: accuracy by the declared reading rule, 95 % interval", title_justify="left")
    for name in ("benchmark", "accuracy", "interval", "n", "runs", "± over runs", "shuffle spread", "unread", "empty",
                 "cut", "tokens"):  # fmt: skip
        drawn.add_column(name, justify="left" if name == "benchmark" else "right", no_wrap=True)
    for name, each in report.items():
        drawn.add_row(
            name,
            percent(each["accuracy"]),
            f"{percent(each['low'])} to {percent(each['high'])}",
            str(each["questions"]),
            str(len(each["runs"])),
            percent(each["standard_error_over_runs"]),
            percent(each["shuffle_spread"]),
            *(percent(each[key]["share"]) for key in ("unread", "empty", "cut")),
            "-" if each["tokens_mean"] is None else f"{each['tokens_mean']:.0f}",
        )
    return drawn


def notes(report: dict[str, Any]) -> list[str]:
    """Return what the table has no room for: the other rules, refused rows, failures."""
    lines = []
    for name, each in report.items():
        rules = ", ".join(
            f"{rule} {percent(of['accuracy'])} ({percent(of['unread_share'])} unread)"
            for rule, of in each["by_rule"].items()
        )
        lines.append(f"{name}: in percent, by rule: {rules}")
        if each["refused_rows"]:
            lines.append(f"{name}: {each['refused_rows']} rows cannot be used and are in no score")
        if each.get("marks"):
            named = ", ".join(f"{count} {kind}" for kind, count in each["marks"].items())
            lines.append(f"{name}: replies without a final response because of thinking marks: {named}")
        if each["failed"]:
            reason = next(iter(each["failures"]))
            lines.append(f"{name}: {each['failed']} questions got no reply and are in no share, mostly: {reason}; "
                         "the same command asks them again")  # fmt: skip
    return lines


def beside(target: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the reports to show in one table: of a run all its stages, else that of the folder."""
    found = predictions.run_of(target)
    if found is None or folder.parent != found[0] / "eval":
        return {target[-NAME:]: predictions.read_report(folder)}
    reports = {stage: predictions.read_report(folder.parent / stage) for stage in STAGES}
    return {stage: report for stage, report in reports.items() if report}


def paper_table(reports: dict[str, dict[str, Any]]) -> Table:
    """Return the paper's table: the reports' rows and the paper's."""
    drawn = Table(title="Percent right, beside the paper's 8B model", title_justify="left")
    drawn.add_column("", no_wrap=True)
    for column in (*papers.COLUMNS, papers.AVERAGE):
        drawn.add_column(column, justify="right", max_width=10)
    for name, row in papers.rows(reports).items():
        drawn.add_row(name, *(f"{row[c]:.1f}" if c in row else "-" for c in (*papers.COLUMNS, papers.AVERAGE)))
    return drawn


def compared(first: str, second: str, report: dict[str, Any]) -> Table:
    """Return one comparison: shares, difference, interval, the questions on which the two differ, p."""
    drawn = Table(title=f"{second} against {first}", title_justify="left")
    for name in ("benchmark", "n", "first", "second", "difference", "95 % interval", "lost", "won", "McNemar p"):
        drawn.add_column(name, justify="left" if name == "benchmark" else "right", no_wrap=True)
    for name, each in {**report["benchmarks"], "overall": report["overall"]}.items():
        drawn.add_row(
            name,
            str(each["n"]),
            percent(each["first"]),
            percent(each["second"]),
            f"{100 * each['difference']:+.1f}",
            f"{100 * each['low']:+.1f} to {100 * each['high']:+.1f}",
            str(each["only_first"]),
            str(each["only_second"]),
            f"{each['p']:.2g}",
        )
    return drawn


def percent(share: float | None) -> str:
    """Return a share in percent, "-" for none."""
    return "-" if share is None else f"{100 * share:.1f}"
