"""Runs the checks in a process of their own, each with its time limit, and writes card.json after every one.

A check that fails, hangs or takes its process along is recorded with the reason, and the next begins in a new process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lite_huatuo.bench import card_file, table
from lite_huatuo.bench.card_file import FAILED, NOT_RUN, PASSED, RUNNING
from lite_huatuo.bench.checks import CHECKS
from lite_huatuo.errors import BackendError, CheckpointError
from lite_huatuo.planning import hardware

WORK, LOG, TABLE = "work", "log.txt", "card.md"
FIRST = "environment"
PATIENCE = 10  # times the limit of a check on a CPU, which a rehearsal may share with others
WAITS, KILLED = "was not reached", "was ended with the whole bench"
Note = Callable[[str], None]
# What the worker's libraries read: nothing is downloaded, no bars, no warnings about forks.
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}


@dataclass
class Bench:
    """One bench: its size, the folder of its results, the card as far as it is known, and when its time is over."""

    size: str
    to: Path
    card: dict[str, Any]
    deadline: float
    note: Note

    def record(self, name: str, result: dict[str, Any]) -> None:
        """Write one check's result."""
        self.card["checks"][name] = result
        card_file.write(self.to, self.card)

    def left(self, name: str) -> float:
        """Return the seconds that a check may take from now on."""
        patience = 1 if self.card["device"] == "cuda" else PATIENCE
        return min(patience * CHECKS[name].seconds, self.deadline - time.monotonic())


def run(only: Sequence[str], *, size: str, to: Path, minutes: float, note: Note) -> dict[str, Any]:
    """Run the checks that have not passed in that folder, or those of `only`; return the card.

    `note` gets a line for every check. The base and the runs are deleted in the end; a bench that is killed leaves
    them, and card.json, for the same call to go on.
    """
    device = _device(size)
    to.mkdir(parents=True, exist_ok=True)
    bench = Bench(size, to.absolute(), card_file.read(to, size, device), time.monotonic() + 60 * minutes, note)
    todo = _todo(bench, only)
    before = bench.card["checks"].get(FIRST, {}).get("figures")
    _prepare(bench, todo)
    while todo:
        todo = _worked(bench, todo)
        found = bench.card["checks"][FIRST].get("figures")
        if None not in (before, found) and found != before:
            raise CheckpointError(
                f"{to / card_file.NAME}: is of another machine, or of other versions; give another folder with --to"
            )
    shutil.rmtree(bench.to / WORK, ignore_errors=True)
    found = card_file.anonymous(bench.card)
    (bench.to / TABLE).write_text(table.markdown(found), encoding="utf-8")
    return found


def _device(size: str) -> str:
    """Return cuda or cpu; BackendError where a card is needed and there is none."""
    found = hardware.torch_state()
    if found.failure:
        raise BackendError(f"torch cannot be imported: {found.failure}; `lite-huatuo doctor` says what to do")
    if not found.cuda_available and size != "tiny":
        raise BackendError(
            "bench --card: no CUDA card here, and a CPU would take hours; `lite-huatuo doctor` says what torch lacks "
            "to see one, and --size tiny rehearses all of it on a CPU"
        )
    return "cuda" if found.cuda_available else "cpu"


def _todo(bench: Bench, only: Sequence[str]) -> list[str]:
    """Return the checks to run, in order: the environment always, the base where others read it and it is not there."""
    passed = [name for name, each in bench.card["checks"].items() if each.get("status") == PASSED]
    wanted = set(only) or {name for name in CHECKS if name not in passed}
    kept = [name for name in passed if name not in wanted and name != FIRST]
    if kept:
        bench.note(f"passed before, kept as they are: {', '.join(kept)}")
    whole = (bench.to / WORK / "base" / "whole").exists()
    if any(CHECKS[name].base for name in wanted) and not whole:
        wanted.add("base")
    return [name for name in CHECKS if name in {FIRST, *wanted}]


def _prepare(bench: Bench, todo: list[str]) -> None:
    """Write down what waits, and what was running when an earlier bench was killed."""
    checks = bench.card["checks"]
    for name, each in checks.items():
        if each.get("status") == RUNNING:
            checks[name] = {"status": NOT_RUN, "reason": KILLED}
    checks |= {name: {"status": NOT_RUN, "reason": WAITS} for name in todo}
    bench.card["checks"] = {name: checks[name] for name in CHECKS if name in checks}
    card_file.write(bench.to, bench.card)


def _worked(bench: Bench, todo: list[str]) -> list[str]:
    """Run checks in one process, as far as it comes; return those that are left."""
    if bench.left(todo[0]) <= 0:
        for name in todo:
            bench.record(name, {"status": NOT_RUN, "reason": "the time of the whole bench was over"})
            bench.note(f"{name}: not run, the time is over")
        return []
    work = bench.to / WORK
    work.mkdir(exist_ok=True)
    asked = json.dumps({"checks": todo, "size": bench.size, "work": str(work), "to": str(bench.to)})
    with (bench.to / LOG).open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "lite_huatuo.bench.worker", asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,  # `_line` waits for what is in the pipe: a buffer would keep a second line from it
            env={**os.environ, **QUIET},
            start_new_session=True,
        )
        try:
            return _heard(bench, worker, todo)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()


def _heard(bench: Bench, worker: subprocess.Popen[bytes], todo: list[str]) -> list[str]:
    """Record what a worker says until it ends or takes too long; return the checks that are left."""
    assert worker.stdout is not None
    rest, start, allowed = list(todo), time.monotonic(), bench.left(todo[0])
    while rest:
        name = rest[0]
        line = _line(worker.stdout, start + allowed - time.monotonic())
        if line is None or not line:
            taken = round(time.monotonic() - start, 1)
            reason = f"not done in {taken:.0f} s" if line is None else f"its process ended with {worker.wait()}"
            _conclude(bench, name, {"status": FAILED, "reason": reason, "seconds": taken})
            return rest[1:]
        result = json.loads(line)
        assert result.pop("check") == name
        if result["status"] == RUNNING:
            start, allowed = time.monotonic(), bench.left(name)
            if allowed > 0:
                bench.record(name, result)
                continue
            return rest
        _conclude(bench, name, result)
        rest.pop(0)
        if result["status"] == FAILED:
            return rest
    return rest


def _line(stdout: IO[bytes], seconds: float) -> bytes | None:
    """Return the next line, b"" where no more comes, None where it does not come in time."""
    if seconds <= 0 or not select.select([stdout], [], [], seconds)[0]:
        return None
    return stdout.readline()


def _conclude(bench: Bench, name: str, result: dict[str, Any]) -> None:
    bench.record(name, result)
    reason = f": {card_file.anonymous(result['reason'])}" if result.get("reason") else ""
    bench.note(f"{name}: {result['status']} in {result['seconds']} s{reason}")
