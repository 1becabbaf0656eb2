"""Data sets on a Hub: pushed, and read back by the Hub paths of recipes, data commands and benchmarks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from lite_huatuo.data import sources
from lite_huatuo.records import to_row
from tests.mini_hub import MiniHub
from tests.mini_hub_repo import Repo

# Ours: pushed by the Hub's own clients, as files and as tables, read by the sources of a recipe.
OURS = """
import json, sys
import datasets
from huggingface_hub import HfApi
from lite_huatuo.data import sources
from lite_huatuo.records import to_row

problems, sft, out = sys.argv[1:4]
card = "---\\nconfigs:\\n" + "".join(
    f"- config_name: {name}\\n  data_files: {name}.jsonl\\n" for name in ("problems", "sft")
) + "---\\n"
api = HfApi()
api.create_repo("tester/data", repo_type="dataset", private=True)
def upload(file, name):
    return api.upload_file(repo_id="tester/data", repo_type="dataset", path_or_fileobj=file, path_in_repo=name).oid
upload(card.encode(), "README.md")
upload(sft, "sft.jsonl")
first = upload(problems, "problems.jsonl")
upload(open(problems, "rb").readline(), "problems.jsonl")
datasets.Dataset.from_json(problems).push_to_hub("tester/table", split="held_out")

def rows(records):
    return [to_row(record) for record in records]
found = {
    "problems": rows(sources.load_problems(f"tester/data:problems@{first}")),
    "newest": rows(sources.load_problems("tester/data:problems")),
    "sft": rows(sources.load_sft("tester/data:sft")),
    "table": rows(sources.load_problems("tester/table#held_out")),
}
try:
    sources.load_problems("tester/nothing")
except Exception as error:
    found["missing"] = f"{type(error).__name__}: {error}"
open(out, "w").write(json.dumps(found))
"""

# Theirs: benchmarks under the ids of benchmarks.yaml.
THEIRS = """
import json, sys
from lite_huatuo.evaluation import benchmarks
from lite_huatuo.records import to_row

found = {}
known = benchmarks.shipped()
for name in sys.argv[2:]:
    loaded = benchmarks.load(known[name])
    found[name] = {"questions": [to_row(question) for question in loaded.questions], "refused": loaded.refused}
open(sys.argv[1], "w").write(json.dumps(found))
"""


@pytest.fixture
def hub() -> Iterator[MiniHub]:
    with MiniHub() as running:
        yield running


def run(hub: MiniHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run python with these words in a process of its own, to which the loopback server is the Hub."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "hf_test" not in done.stdout + done.stderr
    return done


def test_our_records_come_back_from_the_hub(hub: MiniHub, toy: dict[str, str], tmp_path: Path) -> None:
    run(hub, tmp_path / "home", "-c", OURS, toy["problems"], toy["sft"], str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    problems = [to_row(problem) for problem in sources.load_problems(toy["problems"])]
    assert len(problems) > 1
    assert found["problems"] == problems, "a commit stays what it was"
    assert found["newest"] == problems[:1]
    assert found["table"] == problems
    assert found["sft"] == [to_row(example) for example in sources.load_sft(toy["sft"])]
    assert found["missing"].startswith("RecordError: tester/nothing: cannot be loaded from the Hub")
    assert "\n" not in found["missing"]
    assert hub.repos["datasets/tester/data"].private


def medqa(number: int) -> dict:
    return {
        "question": f"Patient {number} has rash. Which cure?",
        "answer": "salt",
        "options": {"A": "rest", "B": "water", "C": "salt", "D": "light"},
        "meta_info": "step1",
        "answer_idx": "C",
        "metamap_phrases": ["rash", "cure"],
    }


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def put(hub: MiniHub, name: str, **files: bytes) -> str:
    """Commit files to a data set's main branch; return the commit."""
    repo = hub.repos.setdefault(f"datasets/{name}", Repo(f"datasets/{name}", False))
    tree = {path: (data, path.endswith(".parquet")) for path, data in files.items()}
    return repo.commit("main", "data", {**repo.tree("main"), **tree}, repo.branches["main"])


def test_benchmarks_load_from_the_hub_as_they_are_published(hub: MiniHub, tmp_path: Path) -> None:
    train, test = [medqa(n) for n in range(3)], [medqa(n) for n in range(10, 14)]
    files = {"phrases_no_exclude_train.jsonl": lines(train), "phrases_no_exclude_test.jsonl": lines(test)}
    put(hub, "GBaker/MedQA-USMLE-4-options", **files)
    options = {"opa": "rest", "opb": "water", "opc": "salt", "opd": "light", "choice_type": "single", "exp": None}
    cops = [{"id": f"m{n}", "question": f"Which cure has number {n}?", **options, "cop": n} for n in range(4)]
    put(hub, "openlifescienceai/medmcqa", **{"data/validation-00000-of-00001.parquet": table(cops)})
    context = {"contexts": ["A trial was made.", "It worked."], "labels": ["METHODS", "RESULTS"], "meshes": ["Rash"]}
    asked = {"question": "Does salt cure a rash?", "context": context, "long_answer": "Yes, it does."}
    labelled = [{"pubid": 7, **asked, "final_decision": "yes"}, {"pubid": 8, **asked, "final_decision": "maybe"}]
    paths = {name: f"{name}/train-00000-of-00001.parquet" for name in ("pqa_artificial", "pqa_labeled")}
    configs = [{"config_name": n, "data_files": [{"split": "train", "path": f"{n}/train-*"}]} for n in paths]
    card = f"---\n{yaml.safe_dump({'configs': configs})}---\n".encode()
    made = {paths["pqa_labeled"]: table(labelled), paths["pqa_artificial"]: table(labelled[:1]), "README.md": card}
    put(hub, "qiaojin/PubMedQA", **made)

    run(hub, tmp_path / "home", "-c", THEIRS, str(tmp_path / "found.json"), "medqa", "medmcqa", "pubmedqa")
    found = json.loads((tmp_path / "found.json").read_text())
    assert not any(each["refused"] for each in found.values())
    questions = {name: each["questions"] for name, each in found.items()}
    assert [q["question"] for q in questions["medqa"]] == [row["question"] for row in test], "the test split, no other"
    assert all((q["answer_idx"], q["answer"]) == ("C", "salt") for q in questions["medqa"])
    assert [q["answer"] for q in questions["medmcqa"]] == ["rest", "water", "salt", "light"], "cop counts from 0"
    assert [q["answer"] for q in questions["pubmedqa"]] == ["yes", "maybe"]
    assert all(q["context"] == "A trial was made.\nIt worked." for q in questions["pubmedqa"])


def test_eval_asks_a_benchmark_of_the_hub_at_the_commit_that_is_named(
    hub: MiniHub, toy: dict[str, str], tmp_path: Path
) -> None:
    first = put(hub, "GBaker/MedQA-USMLE-4-options", **{"test.jsonl": lines([medqa(1), medqa(2)])})
    put(hub, "GBaker/MedQA-USMLE-4-options", **{"test.jsonl": lines([medqa(3)])})
    own = tmp_path / "own.yaml"
    source = f"GBaker/MedQA-USMLE-4-options@{first}#test"
    own.write_text(
        yaml.safe_dump({"pinned": {"title": "Pinned", "sources": [source], "prompt": "one-1", "version": 1}})
    )
    words = ["eval", toy["model"], "--benchmarks", str(own), "--benchmark", "pinned", "--benchmark", "medqa"]
    more = ["--max-tokens", "2", "--to", str(tmp_path / "out"), "--json"]
    done = run(hub, tmp_path / "home", "-m", "lite_huatuo", *words, *more)
    report = json.loads(done.stdout)["benchmarks"]
    assert {name: report[name]["questions"] for name in report} == {"pinned": 2, "medqa": 1}
