"""Measure the teacher client: how near it comes to the bound of latency and concurrency, and what a call costs it.

    python benchmarks/data_throughput.py [--problems 2000] [--calls 4] [--latency 0.2] [--concurrency 64] [--json]

A scripted server on loopback, a process of its own, answers every call after the latency. Each problem asks its calls
one after another; as many problems run at one time as calls may. The bound is calls × latency / concurrency. Every
reply is synced to the disk before it is used, as in a real run. Processor time is that of the client's process, all its
threads; the machine's load is printed beside it, since a busy machine makes both figures worse.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lite_huatuo.data import profile as profiles
from lite_huatuo.data.asking import Request
from lite_huatuo.data.client import Teacher
from lite_huatuo.data.store import Store, ledger

PROMPT = "A patient comes with a problem that takes several sentences to tell. " * 20


async def ask_all(url: str, folder: Path, problems: int, calls: int, concurrency: int) -> None:
    """Ask `calls` requests for each problem, one after another, with `concurrency` problems at one time."""
    profile = profiles.load("local", (f"base_url={url}", f"concurrency={concurrency}"))
    numbers = iter(range(problems))

    async def worker(teacher: Teacher) -> None:
        for number in numbers:
            for call in range(calls):
                await teacher.ask(Request(f"step {call}", f"{PROMPT} {number}", max_tokens=500, sample=str(call)))

    with Store(folder / "requests.sqlite") as store:
        async with Teacher(profile, store) as teacher:
            await asyncio.gather(*(worker(teacher) for _ in range(concurrency)))


def measure(url: str, options: argparse.Namespace) -> dict[str, float]:
    """Run once on a fresh store, then once more on the same, which replays it."""
    calls = options.problems * options.calls
    work = (options.problems, options.calls, options.concurrency)
    with tempfile.TemporaryDirectory() as name:
        walls, processors = [], []
        for _ in range(2):
            wall, processor = time.perf_counter(), time.process_time()
            asyncio.run(ask_all(url, Path(name), *work))
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        assert sum(row.calls for row in ledger(Path(name) / "requests.sqlite")) == calls
    bound = calls * options.latency / options.concurrency
    return {
        "calls": calls,
        "wall seconds": round(walls[0], 2),
        "bound seconds": round(bound, 2),
        "share of the bound": round(bound / walls[0], 3),
        "client CPU ms a call": round(processors[0] / calls * 1000, 2),
        "replay: wall seconds": round(walls[1], 2),
        "replay: CPU ms a call": round(processors[1] / calls * 1000, 3),
        "most memory MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load before": round(options.load, 2),
        "CPUs": os.cpu_count() or 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=4, help="of each problem")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds the server takes for an answer")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print JSON in place of lines")
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    command = [sys.executable, "-m", "tests.scripted_server", "--script", "fixed", "--latency", str(options.latency)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            report = measure(server.stdout.readline().strip(), options)
        finally:
            server.terminate()
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
