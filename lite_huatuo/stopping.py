"""Stopping on SIGINT (Ctrl-C) and SIGTERM (a batch system) at a place from which the work can go on.

    with stopping.on_signals() as stop:
        with stop.held():            # here a signal waits: what is half done cannot be gone on with
            with stop.released():    # but not here
                ...
            ...
            if stop.signal: save, then raise Interrupted(stop.signal)

Outside `held` a signal raises Interrupted at once, and so does a second one anywhere.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; `number` says which. An exit code is 128 + number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """Whether a signal has come: its number, or 0."""

    def __init__(self) -> None:
        self.signal = 0
        self._holding = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a first signal wait while the block runs."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    @contextmanager
    def released(self) -> Iterator[None]:
        """Inside `held`: let a signal, and one that waits, raise Interrupted while the block runs."""
        holding, self._holding = self._holding, False
        try:
            self.check()
            yield
        finally:
            self._holding = holding

    def check(self) -> None:
        """Raise Interrupted where a signal has come."""
        if self.signal:
            raise Interrupted(self.signal)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal. Where an exception is only printed and forgotten, none is raised: the next check raises it."""
        again, self.signal = self.signal, number
        if (again or not self._holding) and not _swallowed(frame):
            raise Interrupted(number)


def _swallowed(frame: FrameType | None) -> bool:
    """True in code from which no exception comes out, as Python prints and drops it: finalisers, and the callback by
    which an import forgets a module's lock."""
    while frame is not None:
        code = frame.f_code
        in_import = code.co_filename.startswith("<frozen importlib")
        if code.co_name == "__del__" or (in_import and code.co_name == "cb"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM while the block runs; on another thread than the main one nothing is changed."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # `ignore` stands to the end of the process
                signal.signal(number, handler)


def ignore() -> None:
    """Ignore SIGINT and SIGTERM from now on: the work is done, and the process takes itself apart."""
    for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
        signal.signal(number, signal.SIG_IGN)
