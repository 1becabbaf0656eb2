"""Progress on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lite_huatuo.cli import terminal


class Display:
    """A `training.progress.Progress` for people. Use as a context manager."""

    def __init__(self) -> None:
        self.console = terminal.console(stderr=True)
        self._live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=self.console,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._what, self._total, self._done, self._told = "", 0, 0, 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, what: str, total: int) -> None:
        """Begin a bar."""
        self._what, self._total, self._done, self._told = what, total, 0, 0.0
        self._task = self._bars.add_task(terminal.harmless(what), total=total, figures="")

    def advance(self, units: int = 1, **figures: float) -> None:
        """Move the bar; off a terminal, print a line with the figures, at most one a second without them."""
        self._done += units
        text = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        if self._task is not None:
            self._bars.advance(self._task, units)
            if text:
                self._bars.update(self._task, figures=text)
        now = time.monotonic()
        if not self._live and (text or now - self._told > 15 or self._done == self._total):
            self._told = now
            terminal.say(f"{self._what} {self._done}/{self._total}  {text}".rstrip(), err=True)

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, soft_wrap=True)
