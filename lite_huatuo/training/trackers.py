"""Passing metrics on to trackers (tensorboard, wandb, trackio) through accelerate, and warnings to trackio."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from lite_huatuo.errors import RecipeError


def check(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"report_to: {name} is not installed; run `pip install {name}` or take it out")


class Log:
    """Writes rows of numbers to the named trackers; with none it does nothing."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        check(names)
        self._accelerator = None
        self._alerts = "trackio" in names
        if names:
            from accelerate import Accelerator

            self._accelerator = Accelerator(log_with=list(names), project_dir=str(folder))
            self._accelerator.init_trackers("lite-huatuo")

    def write(self, row: dict[str, float], step: int) -> None:
        """Pass one row of metrics on."""
        if self._accelerator is not None:
            self._accelerator.log({name: value for name, value in row.items() if "/" in name}, step=step)

    def alert(self, title: str, text: str, *, ends: bool = False) -> None:
        """Raise an alert where trackio is one of the trackers: a warning, or an error where it `ends` the run.

        A trackio that has no alerts yet shows none. The level must be its own enumeration: of a plain "warn" it makes a
        message about a failed alert. What it prints goes to stderr, like all that is no result.
        """
        if not self._alerts:
            return
        import trackio

        alert, levels = getattr(trackio, "alert", None), getattr(trackio, "AlertLevel", None)
        if alert is not None and levels is not None:
            with contextlib.redirect_stdout(sys.stderr):
                alert(title=title, text=text, level=levels.ERROR if ends else levels.WARN)

    def close(self) -> None:
        """Flush and end the trackers."""
        if self._accelerator is not None:
            self._accelerator.end_training()
