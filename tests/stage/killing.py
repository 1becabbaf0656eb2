"""Runs that are killed: from inside, at a chosen piece of work; from outside, by signals at random moments."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training.progress import Quiet

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EARLY = 0.2  # share of the kills that do not wait for the work to begin
PATIENCE = 60.0  # seconds that a signal may take to end a command on a busy machine
AGAIN = "the same command"


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it."""


class At(Quiet):
    """Does something once, when a piece of work has come so far."""

    def __init__(self, what: str, units: int, act: Callable[[], None]) -> None:
        self.what, self.left, self.act, self.now = what, units, act, ""

    def start(self, what: str, total: int) -> None:
        self.now = what

    def advance(self, units: int = 1, **figures: float) -> None:
        if self.now == self.what and self.left > 0:
            self.left -= units
            if self.left <= 0:
                self.act()


class KillAt(At):
    """Kills the run when a piece of work has come so far."""

    def __init__(self, what: str, units: int) -> None:
        def kill() -> None:
            raise Killed

        super().__init__(what, units, kill)


def after_sft(whole: RunDir, recipe: Recipe, folder: Path) -> RunDir:
    """Return a new run whose SFT is another's."""
    run = RunDir.create(folder, recipe.model_dump())
    shutil.copytree(whole.stage("sft"), run.stage("sft"), dirs_exist_ok=True)
    for name in ("report.json", "heldout.base.jsonl", "heldout.sft.jsonl"):
        shutil.copy(whole.path / "eval" / name, run.path / "eval" / name)
    return run


class Hit(NamedTuple):
    """A process that a signal ended: which, when it was sent (monotonic), how long the end took, what was said last."""

    signal: signal.Signals
    moment: float
    seconds: float
    last: str


def kill_at_random(
    words: Callable[[int], list[str]],
    compare: Callable[[int], None],
    ready: Callable[[int], Callable[[], bool]],
    *,
    rng: random.Random,
    count: int,
    longest: float,
    advice: str = AGAIN,
    early: str = AGAIN,
    done: Callable[[int], bool] = lambda number: False,
    after: Callable[[Hit], None] = lambda hit: None,
) -> list[Hit]:
    """Start a command and kill it, again and again, until it was killed `count` times; then let it end.

    `words(n)` are its words in the n-th round; a round ends when the command does, and `compare(n)` looks at what came
    of it. A process is killed a random time up to `longest` seconds after what `ready(n)` returns, made before each
    start, is true; some are killed before. A signal that can be caught must end it soon, with its exit code and
    `advice` how to go on (`early`: before it was ready), and without a trace. Where `done(n)`, all is done though the
    process had not quite ended: that is no kill.
    """
    hits: list[Hit] = []
    number = 0
    while True:
        if len(hits) == count:
            finish(words(number))
            compare(number)
            return hits
        hit = _kill(words(number), ready(number), lambda: done(number), rng, longest, advice, early)  # noqa: B023
        if hit is None:
            compare(number)
            number += 1
            assert number <= 2 * count + 2, "it ends before it can be killed: make the job longer"
        else:
            hits.append(hit)
            after(hit)


def start(words: list[str], err: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start a command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "lite_huatuo", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=err,
        text=True,
    )


def finish(words: list[str]) -> None:
    """Run a command to its end, which must be a good one."""
    process = start(words)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-2000:]


def grown(*paths: Path) -> Callable[[], bool]:
    """Return what tells whether any of the files, which may not be there yet, is another than now."""
    before = [_state(path) for path in paths]
    return lambda: [_state(path) for path in paths] != before


def told(hits: list[Hit]) -> str:
    """Return a line with the figures of a harness run."""
    counts = Counter(hit.signal.name for hit in hits)
    slowest = max((hit.seconds for hit in hits if hit.signal != signal.SIGKILL), default=0.0)
    phases = Counter(" ".join(word for word in hit.last.split() if not any(map(str.isdigit, word))) for hit in hits)
    return f"\n{len(hits)} kills {dict(counts)}, the slowest end {slowest:.1f} s; said last: {dict(phases)}"


def _kill(
    words: list[str],
    ready: Callable[[], bool],
    done: Callable[[], bool],
    rng: random.Random,
    longest: float,
    advice: str,
    early: str,
) -> Hit | None:
    """Start, wait, send a signal; None where the process had done its work before."""
    number, at_once, delay = rng.choice(SIGNALS), rng.random() < EARLY, rng.uniform(0.0, longest)
    delay *= 4 if at_once else 1
    with tempfile.TemporaryFile("w+") as err:
        process = start(words, err)
        while process.poll() is None and not (_listens(process.pid) and (at_once or ready())):
            time.sleep(0.005)
        end = time.monotonic() + delay
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.005)
        was_ready, moment = ready(), time.monotonic()
        process.send_signal(number)
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{number.name} did not end {words} within {PATIENCE} seconds") from None
        seconds = time.monotonic() - moment
        err.seek(0)
        said = err.read()
    assert "Traceback" not in said, said[-4000:]
    ended = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
    assert process.returncode in (0, ended), f"{number.name}, exit {process.returncode}: {said[-2000:]}"
    if process.returncode == 0 or done():
        return None
    lines = [line for line in said.split("\n") if line] or [""]
    if number == signal.SIGKILL:
        return Hit(number, moment, seconds, lines[-1])
    assert (advice if was_ready else early) in said, said[-2000:]
    before = [line for line in lines if "interrupted" not in line] or [""]
    return Hit(number, moment, seconds, before[-1])


def _listens(pid: int) -> bool:
    """True where a process catches SIGTERM: its command has begun, beyond Python's own start."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.split("\n") if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
