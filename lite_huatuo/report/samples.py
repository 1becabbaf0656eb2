"""The replies to page through: those sampled while PPO ran, and those to held-out problems before and after a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo.report.reading import Row, iter_rows
from lite_huatuo.report.text import NOTHING, clean, counted, finite, number
from lite_huatuo.response_format import parse
from lite_huatuo.run_dir import STAGES

LONGEST = 12_000  # characters of one text on the page
VERDICTS = {"right": "right", "wrong": "wrong", "malformed": "malformed", "unjudged": "not judged"}


@dataclass(frozen=True)
class Samples:
    """`shown` are ready for the page; `notes` say what was left out."""

    shown: list[dict[str, Any]]
    notes: list[str]


def read(run: Path, most: int, problems: list[str]) -> Samples:
    """Return at most `most` replies of the PPO updates and at most `most` to held-out problems.

    Where there are more, whole updates are kept, spread evenly with the first and the last among them; of the held-out
    problems the first, the same ones for every stage.
    """
    path, notes = run / "ppo" / "samples.jsonl", []
    counts: dict[float, int] = {}
    for row in iter_rows(path, problems, "ppo/samples.jsonl"):
        update = _update(row)
        counts[update] = counts.get(update, 0) + 1
    kept = spread(counts, most)
    sampled = [row for row in iter_rows(path, [], "") if _update(row) in kept]
    if len(kept) < len(counts):
        notes.append(
            f"Of {sum(counts.values()):,} replies sampled in {len(counts):,} updates, {min(most, len(sampled))} of "
            f"{len(kept)} updates are here, spread evenly; all are in ppo/samples.jsonl."
        )
    elif len(sampled) > most:
        notes.append(f"Of {len(sampled):,} sampled replies the first {most} are here; all are in ppo/samples.jsonl.")
    shown = [_shown(row, f"PPO, update {counted(_update(row))}") for row in sampled[:most]]
    return Samples(shown + _heldout(run / "eval", most, problems, notes), notes)


def spread(counts: dict[float, int], most: int) -> set[float]:
    """Return the updates to show: all where they have at most `most` replies, else some, evenly, first and last too."""
    updates = sorted(counts)
    wanted = len(updates)
    while wanted > 1:
        chosen = {updates[round(i * (len(updates) - 1) / (wanted - 1))] for i in range(wanted)}
        total = sum(counts[update] for update in chosen)
        if total <= most:
            return chosen
        wanted = max(1, min(wanted - 1, wanted * most // total))
    return set(updates[-1:])


def _heldout(folder: Path, most: int, problems: list[str], notes: list[str]) -> list[dict[str, Any]]:
    """Return the replies to held-out problems, as many problems as there is room for."""
    stages = {
        stage: list(iter_rows(folder / f"heldout.{stage}.jsonl", problems, f"eval/heldout.{stage}.jsonl"))
        for stage in STAGES
    }
    found = {stage: rows for stage, rows in stages.items() if rows}
    room = most // max(1, len(found))
    shown = []
    for stage, rows in found.items():
        rows = sorted(rows, key=lambda row: clean(row.get("id")))
        shown += [_shown(row, f"held-out, {STAGES[stage]}") for row in rows[:room]]
    longest = max((len(rows) for rows in found.values()), default=0)
    if longest > room:
        notes.append(f"Of {longest:,} held-out problems the first {room} by id are here; all are in eval/.")
    return shown


def _update(row: Row) -> float:
    return finite(row.get("update")) or 0


def verdict(row: Row) -> str:
    """Return right, wrong, malformed (the reply has not the form) or unjudged (the verifier failed)."""
    if not row.get("well_formed"):
        return "malformed"
    if row.get("correct") is None:
        return "unjudged"
    return "right" if row["correct"] else "wrong"


def _shown(row: Row, origin: str) -> dict[str, Any]:
    """Return one reply as the page takes it: texts cleaned and cut, the two sections apart where it has the form."""
    reply = row.get("reply")
    sections = parse(reply) if isinstance(reply, str) and row.get("well_formed") else None
    shown = {
        "from": origin,
        "verdict": verdict(row),
        "question": _cut(row.get("question")),
        "truth": _cut(row.get("ground_truth")),
        "said": _cut(row.get("verdict")),
        "score": NOTHING if row.get("score") is None else number(row["score"]),
        "length": number(row.get("length")),
        "stopped": bool(row.get("stopped")),
    }
    if sections:
        return {**shown, "thinking": _cut(sections.thinking), "final": _cut(sections.final_response)}
    return {**shown, "reply": _cut(reply)}


def _cut(value: Any) -> str:
    """Return a text for the page, its end left out where it is very long."""
    if value is None:
        return NOTHING
    text = clean(value)
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[cut here: {len(text):,} characters in all]"


def origins(shown: Sequence[dict[str, Any]]) -> list[str]:
    """Return where the samples are from, in order, each once."""
    return list(dict.fromkeys(sample["from"] for sample in shown))
