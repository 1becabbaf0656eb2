"""Greedy evaluation on problems the student never trains on; replies are kept as they come and never written twice."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, run_dir
from lite_huatuo.errors import CheckpointError
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.response_format import parse
from lite_huatuo.training.progress import Progress
from lite_huatuo.training.rollout import Episode, generate, judge
from lite_huatuo.verifier.base import Verifier

REPORT = "report.json"


def evaluate(
    shared: SharedBase,
    adapter: str,
    problems: Sequence[VerifiableProblem],
    verifier: Verifier,
    path: Path,
    *,
    max_reply_length: int,
    batch_size: int,
    progress: Progress,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Answer every problem with one adapter (or the bare base), append predictions to `path`, return the summary.

    Batches are the same however often the work is interrupted: one that is whole in the file is not answered again.
    Each of several processes answers a batch at a time; the main one writes.
    """
    done = processes.once(lambda: _answered(path))
    queries = {problem.id: shared.tokenizer.query(problem.question) for problem in problems}
    order = sorted(problems, key=lambda problem: (len(queries[problem.id]), problem.id))
    progress.start(f"evaluate {path.stem.split('.')[-1]}", len(order))
    together = batch_size * processes.count
    for start in range(0, len(order), together):
        group = order[start : start + together]
        if not all(problem.id in done for problem in group):
            mine = processes.part(group)
            with shared.using(adapter):
                episodes = generate(
                    shared,
                    mine,
                    [queries[problem.id] for problem in mine],
                    temperature=None,
                    max_reply_length=max_reply_length,
                    batch_size=batch_size,
                )
            judge(episodes, verifier)
            rows = processes.merge([prediction(episode) for episode in episodes])
            if processes.main:
                jsonl.append(path, [jsonl.sealed(row) for row in rows if row["id"] not in done])
        progress.advance(len(group))
    wanted = {problem.id for problem in problems}
    return processes.once(lambda: summarise([row for _, row in jsonl.iter_sealed(path) if row["id"] in wanted]))


def _answered(path: Path) -> set[str]:
    """Return the ids of the problems whose replies are whole in the file."""
    jsonl.drop_torn_tail(path)
    return {row["id"] for _, row in jsonl.iter_sealed(path)} if path.exists() else set()


def prediction(episode: Episode) -> dict[str, Any]:
    """Return the row of one reply: what was said, what was read, what the verifier found, and why."""
    sections = parse(episode.text) if episode.well_formed else None
    verdict = episode.verdict
    return {
        "id": episode.problem.id,
        "question": episode.problem.question,
        "ground_truth": episode.problem.ground_truth,
        "reply": episode.text,
        "reading": sections.final_response if sections else None,
        "well_formed": episode.well_formed,
        "stopped": episode.stopped,
        "correct": (verdict.correct if verdict else False),
        "verdict": (verdict.failure or verdict.raw) if verdict else "no final response",
        "score": episode.score,
        "length": len(episode.reply),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return counts, shares, the mean score with its standard error, and the mean reply length.

    Rows whose verifier failed count in `failed` and in no share of right ones and no score; where none was judged the
    score is None.
    """
    judged = [row for row in rows if row["score"] is not None]
    scores = [row["score"] for row in judged]
    return {
        "problems": len(rows),
        "failed": len(rows) - len(judged),
        "well_formed": sum(row["well_formed"] for row in rows),
        "right": sum(bool(row["correct"]) for row in judged),
        "score": statistics.fmean(scores) if scores else None,
        "score_standard_error": statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None,
        "length": statistics.fmean(row["length"] for row in rows) if rows else 0.0,
    }


def report(
    shared: SharedBase,
    adapter: str,
    name: str,
    problems: Sequence[VerifiableProblem],
    verifier: Verifier,
    folder: Path,
    progress: Progress,
    processes: Processes = ALONE,
    **limits: int,
) -> dict[str, Any]:
    """Evaluate into folder/heldout.<name>.jsonl, add the summary to folder/report.json and return it."""
    before = processes.once(lambda: read_report(folder))  # a damaged one is told before the work
    path = folder / f"heldout.{name}.jsonl"
    summary = evaluate(shared, adapter, problems, verifier, path, progress=progress, processes=processes, **limits)
    if processes.main:
        jsonl.write_text(folder / REPORT, json.dumps({**before, name: summary}, indent=2) + "\n")
    return summary


def read_report(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the summaries of a run's eval folder by name (base, sft, ppo)."""
    path, otherwise = folder / REPORT, "delete it (the replies that it sums up stay beside it)"
    found = run_dir.kept(path, otherwise)
    if not all(isinstance(summary, dict) for summary in found.values()):
        raise CheckpointError(f"{path}: damaged; put it back from a copy or {otherwise}")
    return found
