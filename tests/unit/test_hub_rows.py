"""A data set on the Hub gives the records that the same files give on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lite_huatuo.data import sources
from lite_huatuo.records import to_row
from tests.mini_hub import MiniHub
from tests.mini_hub_repo import Repo

ROWS = [
    {"question": "How many litres?", "ground_truth": "1.50"},
    {"question": "Is it so?", "ground_truth": "true"},
    {"question": "How many?", "ground_truth": 7},
    {"question": "On which day?", "ground_truth": "2020-01-02"},
]
READ = """
import json, sys
from lite_huatuo.data import sources
from lite_huatuo.records import to_row
print(json.dumps([[to_row(one) for one in sources.load_problems(source)] for source in sys.argv[1:]]))
"""


def test_the_same_rows_from_the_hub_and_from_disk_are_the_same_records(tmp_path: Path) -> None:
    """The library made a JSON column of texts and numbers: "1.50" came back as "1.5" with another id."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = "question,ground_truth\nWhich code?,007\nHow much?,1.50\n"
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "rows.csv").write_text(table)
    with MiniHub() as hub:
        for name, file, data in (("lines", "train.jsonl", lines), ("table", "train.csv", table)):
            repo = hub.repos.setdefault(f"datasets/org/{name}", Repo(f"datasets/org/{name}", False))
            repo.commit("main", "data", {file: (data.encode(), False)}, repo.branches["main"])
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_test",
            "HF_HOME": str(tmp_path / "home"),
        }
        command = [sys.executable, "-c", READ, "org/lines", "org/table", "org/lines#train[1:3]"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    lines_read, table_read, part_read = json.loads(done.stdout)
    assert lines_read == [to_row(one) for one in sources.load_problems(str(tmp_path / "rows.jsonl"))]
    assert table_read == [to_row(one) for one in sources.load_problems(str(tmp_path / "rows.csv"))]
    assert part_read == lines_read[1:3]
    assert [one["ground_truth"] for one in table_read] == ["007", "1.50"]
