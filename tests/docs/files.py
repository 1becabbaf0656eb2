"""The files that the docs' commands read and no command of the page has written: small, but of the form meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lite_huatuo import recipe as recipes
from lite_huatuo.data import sources
from lite_huatuo.planning import models
from lite_huatuo.response_format import render
from tests.stage.data_jobs import write

CURES = ("rest", "water", "salt", "light")
CASE = (
    "Patient {n} has had a fever, a dry cough and a rash on both arms for {n} days, has been in no other country, "
    "lives with two cats and takes no drugs. Which cure is best?"
)


def exam(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Return exam questions as MedQA publishes them."""
    return [
        {
            "question": CASE.format(n=number),
            "answer": CURES[number % 4],
            "options": dict(zip("ABCD", CURES, strict=True)),
            "answer_idx": "ABCD"[number % 4],
            "meta_info": "step1",
        }
        for number in range(first, first + count)
    ]


def test_questions() -> list[dict[str, Any]]:
    """Return questions of a benchmark, which share no long run of characters with the others."""
    rows = exam(4, first=90)
    return [{**row, "question": f"Case {number}: who is thirsty should drink what?"} for number, row in enumerate(rows)]


def medmcqa(count: int) -> list[dict[str, Any]]:
    """Return exam questions as MedMCQA publishes them."""
    options = dict(zip(("opa", "opb", "opc", "opd"), CURES, strict=True))
    return [
        {"id": f"m{number}", "question": CASE.format(n=number), **options, "cop": number % 4, "choice_type": "single"}
        for number in range(count)
    ]


def problems(count: int) -> list[dict[str, Any]]:
    """Return verifiable problems with the ids that MedMCQA's questions have."""
    return [
        {"id": f"m{number}", "question": CASE.format(n=number), "ground_truth": CURES[number % 4]}
        for number in range(count)
    ]


def open_question(prompt: str) -> str:
    """Return the question that a prompt of `data reformat` is about."""
    found = re.search(r"<question>\n(.*?)\n</question>", prompt, re.DOTALL)
    return found[1] if found else prompt[:200]


def replies(count: int) -> list[dict[str, Any]]:
    """Return replies to the problems: every other one names its ground truth."""
    return [
        {"id": row["id"], "reply": render("It is one of four.", row["ground_truth"] if number % 2 else "Cold baths.")}
        for number, row in enumerate(problems(count))
    ]


def judged(count: int) -> list[dict[str, Any]]:
    """Return judged replies: question, reference, response and a human's label."""
    return [
        {
            "id": f"j{number}",
            "question": CASE.format(n=number),
            "reference": CURES[number % 4],
            "response": CURES[(number + number % 2) % 4].capitalize(),
            "label": number % 2 == 0,
        }
        for number in range(count)
    ]


def sft(count: int) -> list[dict[str, Any]]:
    """Return SFT examples under the names that FreedomIntelligence publishes."""
    return [
        {"Question": row["question"], "Complex_CoT": "One of four may help.", "Response": row["ground_truth"]}
        for row in problems(count)
    ]


def on_the_hub() -> dict[str, dict[str, bytes]]:
    """Return {data set: {path: content}} for what the docs' commands load from the Hub."""
    open_ended = [
        {"Open-ended Verifiable Question": CASE.format(n=n), "Ground-True Answer": CURES[n % 4]}
        for n in range(100, 200)
    ]
    card = "---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n---\n"
    pro = [
        {
            "question_id": number, "question": f"Item {number}: {CASE.format(n=number)}", "options": list(CURES),
            "answer": "ABCD"[number % 4], "answer_index": number % 4, "category": "law" if number > 12 else "health",
        }
        for number in range(20)
    ]  # fmt: skip
    return {
        "openlifescienceai/medmcqa": {"train.jsonl": lines(medmcqa(60)), "validation.jsonl": lines(medmcqa(3))},
        "GBaker/MedQA-USMLE-4-options": {"train.jsonl": lines(exam(2)), "test.jsonl": lines(test_questions())},
        "TIGER-Lab/MMLU-Pro": {"test.jsonl": lines(pro)},
        "FreedomIntelligence/medical-o1-reasoning-SFT": {"README.md": card.encode(), "en.jsonl": lines(sft(12))},
        "FreedomIntelligence/medical-o1-verifiable-problem": {"train.jsonl": lines(open_ended)},
    }


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _copied_recipe(path: Path) -> None:
    path.write_text(recipes.text("demo")[1])


def _config(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shipped = Path(models.__file__).parent / "configs"
    path.write_text((shipped / "Qwen--Qwen2.5-7B-Instruct.json").read_text())


# What a page presumes; every name is a path below the working folder.
MAKERS: dict[str, Callable[[Path], object]] = {
    "mine.yaml": _copied_recipe,
    "my_model/config.json": _config,
    "exams.jsonl": lambda path: write(path, exam(20)),
    "medqa_us.jsonl": lambda path: write(path, exam(20)),
    "medqa_test.jsonl": lambda path: write(path, test_questions()),
    "problems.jsonl": lambda path: write(path, problems(60)),
    "runs/mine/eval/heldout.sft.jsonl": lambda path: write(path, replies(60)),
    "my_sft.jsonl": lambda path: write(path, sft(12)),
    "mine.jsonl": lambda path: write(path, judged(12)),
    "evouna_nq.jsonl": lambda path: write(path, judged(12)),
    "suite_en.jsonl": lambda path: write(path, judged(8)),
    "truths.jsonl": lambda path: write(
        path, [{"id": p.id, "reply": p.ground_truth} for p in sources.load_problems("shipped:problems_en")]
    ),
}
