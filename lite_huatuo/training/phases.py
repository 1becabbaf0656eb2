"""What each phase of an update costs: seconds, and the most memory that was in use at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch


class Phases:
    """Collects `time/<phase>_seconds` and `memory/<phase>_mib` in `figures`; after a phase its cached memory is freed.

    On CUDA memory is what PyTorch allocated, on a CPU the process's resident memory (Linux only, else left out).
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what happens in the block; a name may come again, then seconds add up."""
        reset_peak()
        start = time.perf_counter()
        yield
        seconds, memory = f"time/{name}_seconds", f"memory/{name}_mib"
        self.figures[seconds] = self.figures.get(seconds, 0.0) + time.perf_counter() - start
        peak = peak_mib()
        if peak is not None:
            self.figures[memory] = max(self.figures.get(memory, 0.0), peak)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next phase has tensors of other sizes

    @property
    def seconds(self) -> float:
        """Seconds of all phases."""
        return sum(value for name, value in self.figures.items() if name.startswith("time/"))


def reset_peak() -> None:
    """Begin to look for a new peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float | None:
    """Return the peak since `reset_peak` in MiB, or None where it is not told."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in status.splitlines() if line.startswith("VmHWM")), None)
