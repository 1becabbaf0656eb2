"""A card as Markdown: what passed, memory beside `plan`, tokens a second, what holds, and the other figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from lite_huatuo.bench.card_file import FAILED, PASSED
from lite_huatuo.bench.checks import CHECKS

SHOWN_APART = ("memory", "speed", "holds")
CPU = "A rehearsal on a CPU: the figures say that every check runs, nothing about a card."


def markdown(card: dict[str, Any]) -> str:
    """Return the whole page of a card.json."""
    checks = card["checks"]
    figures = {name: each.get("figures", {}) for name, each in checks.items()}
    known = figures.get("environment", {})
    where = known.get("card", "CPU") if card["device"] == "cuda" else "CPU"
    lines = [f"# {where}, a base of size {card['size']}", ""]
    lines += [CPU, ""] if card["device"] != "cuda" else []
    lines += _table(("check", "", "seconds", "why"), [_check(name, checks[name]) for name in checks])
    lines += ["", "## Memory beside `plan`", "", _measure(card["device"]), ""]
    rows = [_memory(row) for each in figures.values() for row in each.get("memory", [])]
    lines += _table(("phase", "predicted MiB", "measured MiB", "measured ÷ predicted"), rows)
    lines += ["", "## Tokens a second", ""]
    rows = [_speed(row) for each in figures.values() for row in each.get("speed", [])]
    lines += _table(("phase", "", "tokens/s", "ms"), rows)
    lines += ["", "## What must hold", ""]
    held = [pair for each in figures.values() for pair in each.get("holds", {}).items()]
    rows = [(claim, "yes" if holds else "NO") for claim, holds in held]
    lines += _table(("", ""), rows)
    lines += ["", "## Other figures", ""]
    rows = [
        (name, key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, each in figures.items()
        for key, value in each.items()
        if key not in SHOWN_APART
    ]
    return "\n".join([*lines, *_table(("check", "", ""), rows)]) + "\n"


def failed(card: dict[str, Any]) -> list[str]:
    """Return the checks that failed."""
    return [name for name, each in card["checks"].items() if each["status"] == FAILED]


def _measure(device: str) -> str:
    if device == "cuda":
        return "As PyTorch allocates it: without CUDA's context and what its allocator loses between blocks."
    return "The memory of the whole process, with Python and its libraries."


def _check(name: str, result: dict[str, Any]) -> Sequence[Any]:
    status = result["status"] if result["status"] == PASSED else f"**{result['status']}**"
    return f"{name}: {CHECKS[name].about}", status, result.get("seconds", ""), result.get("reason", "")


def _memory(row: dict[str, Any]) -> Sequence[Any]:
    predicted, measured = row["predicted_mib"], row["measured_mib"]
    if measured is None:
        return row["phase"], predicted, "not told", ""
    return row["phase"], predicted, measured, f"{measured / predicted:.2f}" if predicted else ""


def _speed(row: dict[str, Any]) -> Sequence[Any]:
    return row["phase"], row["what"], row.get("tokens_per_second", row.get("failed", "")), row.get("ms", "")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table; a bar or a line end in a cell would break it."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if not cells:
        return ["nothing measured"]
    return [f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells]]
