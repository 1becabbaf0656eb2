"""Benchmarks that end in seconds where they are asked for little; the others take minutes at the least."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import ROOT

pytestmark = pytest.mark.slow
LEAST = {
    "data_search.py": (["--problems", "20", "--latency", "0", "--memory"], "20"),
    "data_throughput.py": (["--problems", "20", "--latency", "0"], "share of the bound"),
    "verifier.py": (["--repeats", "1", "--hidden", "32", "--judge-ms", "1"], "together / one after the other"),
}


@pytest.mark.parametrize("script", LEAST)
def test_a_benchmark_runs(script: str, tmp_path: Path) -> None:
    words, shown = LEAST[script]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert shown in done.stdout
