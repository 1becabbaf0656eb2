"""The rollout of all processes from the parts that each has sampled, measured and had judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lite_huatuo.processes import Processes, interleave
from lite_huatuo.training.rollout import Episode, Rollout

TENSORS = ("reply_mask", "logprobs", "reference", "values", "entropy", "weights")  # (B, R) each


def joined(mine: Rollout, processes: Processes) -> Rollout:
    """Return the whole rollout, the same on every process, from each one's `Processes.part` of the episodes.

    Trunks, which are large, stay where they are: those of other processes' episodes are None.
    """
    if processes.count == 1:
        return mine
    parts = processes.gather((mine.episodes, {name: getattr(mine, name) for name in TENSORS}))
    width = max(tensors["reply_mask"].shape[1] for _, tensors in parts)
    whole: dict[str, Any] = {name: _stacked([tensors[name] for _, tensors in parts], width) for name in TENSORS}
    episodes: list[Episode] = interleave([each for each, _ in parts])
    trunk: list[Tensor | None] = []
    if mine.trunk:
        empty: list[list[Tensor | None]] = [[None] * len(each) for each, _ in parts]
        trunk = interleave([mine.trunk if rank == processes.rank else part for rank, part in enumerate(empty)])
    return Rollout(episodes, torch.zeros(len(episodes)), **whole, trunk=trunk)


def _stacked(parts: list[Tensor], width: int) -> Tensor:
    """Return the rows of all parts in their first order, filled up to (B, width) with 0."""
    return torch.stack(interleave([list(pad(part, (0, width - part.shape[1]))) for part in parts]))
