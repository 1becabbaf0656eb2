"""The card of a trained verifier: what it was trained on, how good it is on what it has not seen, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROWS = ("accuracy", "precision", "recall", "false_positive_rate")


def render(
    folder: str, base: str, settings: Mapping[str, Any], counts: Mapping[str, int], tests: Mapping[str, Any]
) -> str:
    """Return the card as Markdown. `tests` holds reports of `acceptance.report` by the name of the judged set;
    `settings` is what the training was given, and the fitted temperature."""
    lines = [
        f"# Verifier adapter for {base}",
        "",
        "A LoRA that judges whether a final response gives the right answer to a medical question, made with",
        "lite-huatuo. It is a research tool for training language models and not fit for clinical use.",
        "",
        f"Judged replies: {counts['train']} to train, {counts['calibration']} to calibrate, {counts['test']} to test,",
        "split by question.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in settings.items()),
    ]
    for name, report in tests.items():
        groups = _groups(report)
        lines += ["", f"## {name}", "", f"| | all | {' | '.join(groups)} |", f"|---|---|{'---|' * len(groups)}"]
        for row in ROWS:
            cells = [_share(part[row]) for part in (report, *groups.values())]
            lines.append(f"| {row.replace('_', ' ')} | {' | '.join(cells)} |")
        error = report["calibration_error"]
        lines += ["", f"F1 {_number(report['f1'])}, expected calibration error {_number(error)}, n = {report['n']}."]
    return "\n".join(
        [
            *lines,
            "",
            "Brackets are 95 % Wilson intervals. Use it in a recipe of a student on the same base:",
            "",
            "```yaml",
            "verifier:",
            "  kind: adapter",
            f"  adapter: {folder}",
            f"  threshold: {settings['threshold']}",
            "```",
            "",
        ]
    )


def _groups(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a report by language and by length."""
    return {**report["by_language"], **report["by_length"]}


def _share(share: Mapping[str, Any]) -> str:
    return "-" if share["value"] is None else f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
