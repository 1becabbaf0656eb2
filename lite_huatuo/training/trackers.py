"""Passing metrics on to trackers (tensorboard, wandb, trackio) through accelerate."""

from __future__ import annotations

import importlib.util
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
        if names:
            from accelerate import Accelerator

            self._accelerator = Accelerator(log_with=list(names), project_dir=str(folder))
            self._accelerator.init_trackers("lite-huatuo")

    def write(self, row: dict[str, float], step: int) -> None:
        """Pass one row of metrics on."""
        if self._accelerator is not None:
            self._accelerator.log({name: value for name, value in row.items() if "/" in name}, step=step)

    def close(self) -> None:
        """Flush and end the trackers."""
        if self._accelerator is not None:
            self._accelerator.end_training()
