"""Runs that are killed from inside, at a chosen piece of work."""

from __future__ import annotations

from lite_huatuo.training.progress import Quiet


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it."""


class KillAt(Quiet):
    """Kills the run when a piece of work has come so far."""

    def __init__(self, what: str, units: int) -> None:
        self.what, self.left, self.now = what, units, ""

    def start(self, what: str, total: int) -> None:
        self.now = what

    def advance(self, units: int = 1, **figures: float) -> None:
        if self.now == self.what:
            self.left -= units
            if self.left <= 0:
                raise Killed
