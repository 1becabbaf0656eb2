"""The data half against a real OpenAI-compatible server: `transformers serve` with the demo's model, far too
small to follow any prompt. What counts is the protocol and the books: every record ends as an output, dropped or
failed, and a second run asks nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import store
from lite_huatuo.models import gguf
from lite_huatuo.recipe import load
from tests.model_server import serve

pytestmark = [pytest.mark.slow, pytest.mark.shared_data]
ROWS = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server that answers with the demo's base model."""
    base = load("demo").base
    folder = gguf.resolve(base.model, base.fallback)
    with serve(folder, tmp_path_factory.mktemp("server") / "log.txt") as url:
        yield url


def count(path: Path) -> int:
    return sum(1 for _ in jsonl.iter_rows(path))


def test_every_command_keeps_its_books(run, server: str, test_data: Path, tmp_path: Path) -> None:
    base = load("demo").base
    (tmp_path / "small.yaml").write_text(
        f"name: small\nmodel: {gguf.resolve(base.model, base.fallback)}\nbase_url: {server}\n"
        "prices: {input: 0.0, output: 0.0}\nconcurrency: 2\ntimeout: 300\nextra: {max_tokens: 24}\n"
    )
    lines = (test_data / "exam_train" / "medqa_us.jsonl").read_text().split("\n")[:ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    exam, problems = tmp_path / "exam.jsonl", tmp_path / "open.jsonl"
    assert run("data", "import", tmp_path / "rows.jsonl", "--to", exam)[0] == 0
    rows = [row for _, row in jsonl.iter_rows(exam)]
    jsonl.write(problems, [{"id": r["id"], "question": r["question"], "ground_truth": r["answer"]} for r in rows])
    profile = tmp_path / "small.yaml"
    shared = ("--store", tmp_path / "store.sqlite", "--max-failures", "1")
    short = ("--rounds", "1", "--attempts", "1")
    jobs = {
        "filter": ("data", "filter", exam, "--solver", profile, "--teacher", profile, "--to", tmp_path / "kept.jsonl"),
        "reformat": ("data", "reformat", exam, "--teacher", profile, "--to", tmp_path / "problems.jsonl"),
        "search": ("data", "search", problems, "--teacher", profile, "--to", tmp_path / "found.jsonl", *short),
    }
    for name, words in jobs.items():
        code, _, err = run(*words, *shared)
        assert code == 0, err
        out = words[words.index("--to") + 1]
        sides = [out, *(out.with_name(f"{out.stem}.{side}.jsonl") for side in ("dropped", "failed"))]
        counts = [count(path) for path in sides if path.exists()]
        assert sum(counts) == ROWS, (name, counts)
        assert all(row["reason"] for side in sides[1:] if side.exists() for _, row in jsonl.iter_rows(side))
    ledger = store.ledger(tmp_path / "store.sqlite")
    assert {row.step.partition(".")[0] for row in ledger} >= {"filter", "reformat", "search"}
    assert all(row.input > 0 and row.output > 0 and row.failed == row.unanswered == 0 for row in ledger)
    before = sum(row.calls for row in ledger)
    assert before >= 3 * ROWS
    for words in jobs.values():
        assert run(*words, *shared, "--overwrite")[0] == 0
    code, out, _ = run("data", "ledger", "--store", tmp_path / "store.sqlite", "--json")
    assert sum(row["calls"] for row in json.loads(out)) == before, "a second run asks nothing"
