"""Seconds and memory on a card, or on a CPU in a rehearsal."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from lite_huatuo.models import backends
from lite_huatuo.training import phases

MIB = 2**20


def cuda() -> bool:
    """Whether there is a card."""
    return torch.cuda.is_available()


def device() -> torch.device:
    """Return the card, or the CPU."""
    return backends.own_device()


def sync() -> None:
    """Wait until the card has done what it was given."""
    if cuda():
        torch.cuda.synchronize()


def clean() -> None:
    """Collect what nobody holds any more, give cached memory back and begin to look for a new peak."""
    gc.collect()
    if cuda():
        torch.cuda.empty_cache()
    phases.reset_peak()


def allocated() -> int | None:
    """Return the MiB that PyTorch has allocated on the card now; None on a CPU, where nobody counts."""
    return round(torch.cuda.memory_allocated() / MIB) if cuda() else None


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds that a piece of work takes."""
    sync()
    start = time.perf_counter()
    work()
    sync()
    return time.perf_counter() - start


def best(work: Callable[[], Any], times: int = 3) -> float:
    """Return the shortest time of some, in seconds, after one that does not count."""
    work()
    return min(seconds(work) for _ in range(times))


def memory(phase: str, predicted: int) -> dict[str, Any]:
    """Return the line of a phase: MiB predicted, and the peak since `clean` (None where the system does not tell)."""
    found = phases.peak_mib()
    return {"phase": phase, "predicted_mib": predicted, "measured_mib": None if found is None else round(found)}
