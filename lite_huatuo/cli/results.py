"""The result table: base, SFT and SFT+PPO side by side on the held-out problems."""

from __future__ import annotations

from typing import Any

from rich.table import Table

ROWS = {"base": "base", "sft": "SFT", "ppo": "SFT + PPO"}


def table(report: dict[str, dict[str, Any]]) -> Table:
    """Return a rich table of a run's eval/report.json; every share with its count."""
    drawn = Table(title="Held-out problems, greedy replies", title_justify="left")
    for name in ("", "well-formed", "mean score", "verified right", "mean reply length"):
        drawn.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for key, label in ROWS.items():
        if key in report:
            drawn.add_row(label, *cells(report[key]))
    return drawn


def cells(summary: dict[str, Any]) -> list[str]:
    """Return the four cells of one row."""
    n, judged = summary["problems"], summary["problems"] - summary["failed"]
    return [
        _share(summary["well_formed"], n),
        f"{summary['score']:.3f} ± {summary['score_standard_error']:.3f} (n={judged})",
        _share(summary["right"], judged),
        f"{summary['length']:.0f} tokens (n={n})",
    ]


def _share(count: int, total: int) -> str:
    return f"{count / total:.2f} ({count}/{total})" if total else "-"
