"""Measure `lite-huatuo data search` from end to end: speed against the bound, processor time, and memory.

    python benchmarks/data_search.py [--problems 2000] [--latency 0.2] [--concurrency 64] [--memory 2000 40000]

The command runs as a process of its own against a scripted server on loopback, another process, which answers every
prompt of the search after the latency. The bound is calls × latency / concurrency. Processor time and memory are those
of the command as the system counts them, start included. For memory the search is cut to one call for each problem
(one first chain, judged by rule) and the latency to nothing. The machine's load before is printed beside the figures: a
busy machine makes all but the memory worse.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lite_huatuo.data.store import ledger

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from lite_huatuo.cli.main import main; main()", "data", "search"]
ONE_CALL = ["--rounds", "0", "--attempts", "1", "--verifier", "exact", "--max-failures", "1"]
CASE = "A {age}-year-old patient, number {number}, has had a cough, a rash and headaches for {days} days. " * 3


def search(url: str, problems: int, concurrency: int, words: list[str]) -> dict[str, float]:
    """Run one search on a fresh store and return what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "in.jsonl").open("w") as file:
            for number in range(problems):
                question = f"{CASE.format(age=20 + number % 70, number=number, days=number % 30)}What is the cause?"
                file.write(json.dumps({"id": f"p{number}", "question": question, "ground_truth": "measles"}) + "\n")
        profile = ["--teacher", "local", "--set", f"base_url={url}", "--set", f"concurrency={concurrency}"]
        files = [str(folder / "in.jsonl"), "--to", str(folder / "out.jsonl"), "--store", str(folder / "store.sqlite")]
        started = time.perf_counter()
        process = subprocess.Popen([*COMMAND, *files, *profile, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        assert status == 0, "the search failed"
        calls = sum(row.calls for row in ledger(folder / "store.sqlite"))
    return {
        "problems": problems,
        "calls": calls,
        "wall seconds": round(wall, 1),
        "CPU ms a call": round((usage.ru_utime + usage.ru_stime) / calls * 1000, 2),
        "most memory MB": round(usage.ru_maxrss / 1024, 1),
    }


def served(latency: float) -> subprocess.Popen[str]:
    """Start the server; its first line of output is its address."""
    command = [sys.executable, "-m", "tests.scripted_server", "--script", "teacher", "--latency", str(latency)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000, help="0: leave the speed out")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds the server takes for an answer")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--memory", type=int, nargs="*", default=[2000, 40_000], help="problems of the memory runs")
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", flush=True)
    runs = [(options.problems, options.latency, ["--label-guided", "--max-failures", "1"])] if options.problems else []
    for problems, latency, words in [*runs, *((count, 0.0, ONE_CALL) for count in options.memory)]:
        with served(latency) as server:
            try:
                assert server.stdout is not None
                report = search(server.stdout.readline().strip(), problems, options.concurrency, words)
            finally:
                server.terminate()
        if latency:
            bound = report["calls"] * latency / options.concurrency
            report |= {"bound seconds": round(bound, 1), "share of the bound": round(bound / report["wall seconds"], 3)}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
