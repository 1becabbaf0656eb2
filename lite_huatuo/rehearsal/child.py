"""One command of the rehearsal in a process of its own, as the user will type it, from the same entry point.

The process can be killed like any other. On a CPU it is forked from a server that has imported the libraries, which
saves some seconds a command; with a card it is started afresh, because CUDA does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PRELOAD = "lite_huatuo.rehearsal.preload"  # what the server imports
WATCHED_EVERY = 0.2  # seconds
LONGEST = 1800.0  # seconds that one command may take


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: killed by that signal), seconds, most resident memory in MiB."""

    code: int
    seconds: float
    mib: float | None
    log: Path


def run(
    words: Sequence[str],
    log: Path,
    *,
    on: str,
    environ: Mapping[str, str] | None = None,
    kill: Callable[[float], bool] | None = None,
) -> Ended:
    """Run `lite-huatuo WORDS` with its output in `log`; SIGKILL it as soon as `kill(seconds)` says so."""
    _hush_tracker()
    context: Any = multiprocessing.get_context("spawn" if on == "cuda" else "forkserver")
    if on != "cuda":
        context.set_forkserver_preload([PRELOAD])
    ours, theirs = context.Pipe(duplex=False)
    start = time.perf_counter()
    process = context.Process(target=_command, args=(list(words), str(log), dict(environ or {}), os.getpid(), theirs))
    process.start()
    theirs.close()
    try:
        while process.is_alive():
            process.join(WATCHED_EVERY)
            seconds = time.perf_counter() - start
            if process.is_alive() and (seconds > LONGEST or (kill is not None and kill(seconds))):
                kill_tree(process.pid)
                process.join()
    except BaseException:  # a signal: nothing goes on without this process
        kill_tree(process.pid)
        raise
    seconds = time.perf_counter() - start
    try:
        mib = ours.recv() if ours.poll() else None
    except EOFError:  # killed before it could say
        mib = None
    return Ended(process.exitcode, seconds, mib, log)


def _hush_tracker() -> None:
    """Keep Python's own tracker from reporting the locks of a command that was killed on purpose."""
    ignored = "ignore::UserWarning:multiprocessing.resource_tracker"
    if ignored not in os.environ.get("PYTHONWARNINGS", ""):
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), ignored)))


def kill_tree(pid: int | None) -> None:
    """SIGKILL a process and everything that it has started."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


def _command(words: list[str], log: str, environ: dict[str, str], owner: int, pipe: Any) -> None:
    """Be the command: output into the log, its exit code as the process's own."""
    os.environ.update(environ)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    sys.argv = ["lite-huatuo", *words]
    code = 0
    try:
        runpy.run_module("lite_huatuo", run_name="__main__", alter_sys=False)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        pipe.send(max(usage) / (2**20 if sys.platform == "darwin" else 2**10))
    sys.exit(code)


def _end_with(owner: int) -> None:
    """End this command, and what it started, when the rehearsal that waits for it is gone."""
    while psutil.pid_exists(owner):
        time.sleep(WATCHED_EVERY)
    kill_tree(os.getpid())


def last_words(log: Path) -> str:
    """Return the line in which a command's log says why it failed: its last error, or the last line of all."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
