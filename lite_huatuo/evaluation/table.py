"""The paper's table: seven columns and their average, a student beside its base and the paper's own figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "MedQA",
    "MedMCQA",
    "PubMedQA",
    "MMLU-Pro Health",
    "MMLU-Pro Biology",
    "GPQA Genetics",
    "GPQA Molecular Biology",
)
AVERAGE = "average of 7"
# arXiv 2412.18925, the 8B model, percent. Columns that stand for themselves there only in the average are left open.
PAPER = {
    "paper: Llama-3.1-8B-Instruct": {"MedQA": 58.7, "MedMCQA": 56.0, "PubMedQA": 75.2, AVERAGE: 55.4},
    "paper: SFT": {"MedQA": 69.0, "MedMCQA": 57.9, "PubMedQA": 77.7, AVERAGE: 59.8},
    "paper: SFT + PPO": {"MedQA": 72.6, "MedMCQA": 60.4, "PubMedQA": 79.2, AVERAGE: 63.9},
}


def row(report: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return {column: percent} of a report's benchmarks; the average only where all seven columns are there."""
    found = {
        summary["column"]: 100 * summary["accuracy"]
        for summary in report.values()
        if summary.get("column") in COLUMNS and summary["accuracy"] is not None
    }
    if len(found) == len(COLUMNS):
        found[AVERAGE] = sum(found.values()) / len(COLUMNS)
    return found


def rows(reports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the rows of the table by their names: the reports in their order, then the paper's figures."""
    return {**{name: row(report) for name, report in reports.items()}, **PAPER}
