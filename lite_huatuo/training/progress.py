"""What a stage tells while it works; the command line draws it, the Python API may ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listener of one stage after another."""

    def start(self, what: str, total: int) -> None:
        """A piece of work of `total` units begins."""
        ...

    def advance(self, units: int = 1, **figures: float) -> None:
        """Some units are done; `figures` are the latest numbers worth showing."""
        ...

    def note(self, text: str) -> None:
        """One line worth reading."""
        ...


class Quiet:
    """A listener that shows nothing."""

    def start(self, what: str, total: int) -> None:
        """Ignore."""

    def advance(self, units: int = 1, **figures: float) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
