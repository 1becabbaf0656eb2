"""Numbers gone wrong: what is not finite is never learned from, counted where it can be left out, and told.

A NaN that reaches an optimizer is in its moments and in every weight for good; here it stops before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lite_huatuo.errors import WatchStop

IN_A_ROW = 5  # SFT steps left out one after the other that end the stage
ADVICE = (
    "The adapters are as they were before, and the last checkpoint is sound: go on with --resume and a lower learning "
    "rate, or in another compute_dtype (float16 cannot hold large numbers)"
)


def refuse(named: Mapping[str, Tensor], mask: Tensor) -> None:
    """Stop where a rollout's numbers (B, R) are not finite at real tokens: the network itself gives them."""
    for name, numbers in named.items():
        broken = ((~torch.isfinite(numbers)) & mask).any(dim=1)
        if bool(broken.any()):
            raise WatchStop(
                f"the {name} of {int(broken.sum())} of {len(mask)} episodes hold what is no finite number; nothing was "
                f"learned from them. {ADVICE}"
            )


def all_finite(numbers: Iterable[float]) -> bool:
    """True where every number is finite."""
    return all(math.isfinite(number) for number in numbers)


def no_step_taken(steps: int) -> WatchStop:
    """Return the stop for an update of which every optimizer step had to be left out."""
    return WatchStop(f"all {steps} optimizer steps of the update had a loss or gradient that is not finite. {ADVICE}")


def gradient_guard(parameters: Iterable[torch.nn.Parameter]) -> Any:
    """Return a trainer callback that leaves a step out where the gradient of these parameters is not finite.

    Without gradients an optimizer changes neither weights nor moments. The count since the last line goes to the log as
    `skipped_steps`; figures that are not finite are taken out of the line.
    """
    from transformers import TrainerCallback

    class GradientGuard(TrainerCallback):
        """Stands before every optimizer step."""

        def __init__(self) -> None:
            self.parameters, self._skipped, self._in_a_row = list(parameters), 0, 0

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
                self._in_a_row = 0
                return
            for parameter in self.parameters:
                parameter.grad = None
            self._skipped, self._in_a_row = self._skipped + 1, self._in_a_row + 1
            if self._in_a_row >= IN_A_ROW:
                raise WatchStop(
                    f"SFT, step {state.global_step + 1}: {IN_A_ROW} steps in a row had a gradient that is not finite. "
                    f"{ADVICE}"
                )

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs is None:
                return
            for name in [name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)]:
                del logs[name]
            if "grad_norm" in logs or "loss" in logs:  # a line of steps, not of an evaluation
                logs["skipped_steps"], self._skipped = self._skipped, 0

    return GradientGuard()
