"""The rows of a rehearsal: what the twin is taught, what stands in for data sets on the Hub, the exam at the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.data import sources
from lite_huatuo.records import VerifiableProblem

TAUGHT, HELDOUT = 16, 3  # problems
QUESTIONS = 4  # of the benchmark
THINKING = "Let me think."


def problems(language: str) -> list[VerifiableProblem]:
    """Return the shortest shipped problems: short rows are fast rows."""
    found = sources.load_problems(f"shipped:problems_{language}")
    return sorted(found, key=lambda problem: (len(problem.question) + len(problem.ground_truth), problem.id))[:TAUGHT]


def answers(problem: VerifiableProblem, others: Sequence[VerifiableProblem]) -> list[str]:
    """Return a right and a wrong answer: a student taught both is sometimes right, and the score varies."""
    return [problem.ground_truth, random.Random(problem.id).choice(others).ground_truth]


def write(some: Sequence[VerifiableProblem], folder: Path) -> dict[str, Path]:
    """Write {sft, problems, heldout} into a folder; return the files."""
    examples = [
        {
            "id": f"{problem.id}-{number}",
            "question": problem.question,
            "complex_cot": THINKING,
            "response": answer,
            "provenance": {"origin": "rehearsal"},
        }
        for problem in some
        for number, answer in enumerate(answers(problem, some))
    ]
    rows = {"sft": examples, "problems": [asdict(problem) for problem in some[HELDOUT:]]}
    rows["heldout"] = [asdict(problem) for problem in some[:HELDOUT]]
    paths = {name: folder / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        jsonl.write(path, rows[name])
    return paths


def exam(some: Sequence[VerifiableProblem]) -> list[dict[str, Any]]:
    """Return exam questions in MedQA's form, whose wrong options are the other problems' truths."""
    rows, letters = [], "ABCD"
    for problem in some[:QUESTIONS]:
        rng = random.Random(problem.id)
        others = sorted({each.ground_truth for each in some} - {problem.ground_truth})
        texts = [problem.ground_truth, *rng.sample(others, len(letters) - 1)]
        rng.shuffle(texts)
        rows.append(
            {
                "id": f"rehearsal-{problem.id}",
                "question": problem.question,
                "options": dict(zip(letters, texts, strict=True)),
                "answer_idx": letters[texts.index(problem.ground_truth)],
                "answer": problem.ground_truth,
            }
        )
    return rows
