"""How a contender of benchmarks/ppo_update.py speaks with the driver. Imported in several virtual environments: needs
the standard library only.

A contender is a process. It imports, calls `begin`, loads, calls `ready`; then, for every `wait` that returns True, it
runs one whole PPO update and calls `report`. One JSON object a line goes to the driver; what libraries print goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # "all-linear" by their names


class Clock:
    """Wall and processor seconds of one update, by phase: `start` ends the phase before."""

    def __init__(self, phase: str) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self.phase = phase
        self._since = self._began = self._now()

    def start(self, phase: str) -> None:
        if phase != self.phase:
            self._close()
            self.phase = phase

    def stop(self) -> dict[str, Any]:
        self._close()
        wall, cpu = (end - start for end, start in zip(self._since, self._began, strict=True))
        return {"wall": wall, "cpu": cpu, "phases": self.phases}

    def _close(self) -> None:
        now = self._now()
        wall, cpu = (end - start for end, start in zip(now, self._since, strict=True))
        seen = self.phases.setdefault(self.phase, {"wall": 0.0, "cpu": 0.0})
        self.phases[self.phase] = {"wall": seen["wall"] + wall, "cpu": seen["cpu"] + cpu}
        self._since = now

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


class Contender:
    """The contender's end of the protocol. Make it before anything prints."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("work", type=Path, help="the workload folder that the driver made")
        parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
        parser.add_argument("--minibatches", type=int, default=1)
        self.arguments = parser.parse_args()
        self.work: dict[str, Any] = json.loads((self.arguments.work / "work.json").read_text())
        self.model = str(self.arguments.work / "model")
        self._channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._update = 0
        self._import_mib = 0.0

    def begin(self) -> None:
        """Call it when everything is imported and nothing is loaded."""
        self._import_mib = resident("VmRSS")

    def ready(self, **settings: Any) -> None:
        """Say that it is loaded, and with what settings; the peak of memory counts from here."""
        Path("/proc/self/clear_refs").write_text("5")
        self._say({"ready": True, "import_rss_mib": self._import_mib, "versions": versions(), "settings": settings})

    def wait(self) -> bool:
        """Wait until the driver wants the next update; False when it wants no more."""
        return sys.stdin.readline().strip() == "go"

    def lengths(self) -> list[int]:
        """Return the reply lengths drawn for the update that runs now, stop token included, one for each query."""
        return self.work["lengths"][self._update % len(self.work["lengths"])]

    def report(self, clock: Clock, replies: list[int]) -> None:
        """Report an update; `replies` are the lengths that came out, in the order of the queries."""
        measured = clock.stop()
        if replies != self.lengths():
            raise SystemExit(f"the replies are not as long as drawn: {replies} for {self.lengths()}")
        tokens = sum(replies) + sum(len(query) for query in self.work["queries"])
        self._say({**measured, "real_tokens": tokens, "peak_rss_mib": resident("VmHWM")})
        self._update += 1

    def _say(self, message: dict[str, Any]) -> None:
        self._channel.write(json.dumps(message) + "\n")
        self._channel.flush()


class Forced:
    """A logits processor that ends every reply at its drawn length, never before. It knows a row by its query."""

    def __init__(self, lengths: dict[tuple[int, ...], int], *, stop: int, pad: int) -> None:
        self.lengths, self.stop, self.pad = lengths, stop, pad
        self.width = 0
        self.rows: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.rows is None:
            self.width = input_ids.shape[1]
            # the driver's queries hold neither pad token nor token 0, which TRL writes in the place of padding
            queries = [tuple(token for token in row if token not in (0, self.pad)) for row in input_ids.tolist()]
            self.rows = scores.new_tensor([self.lengths[query] for query in queries])
        ends = self.rows == input_ids.shape[1] - self.width + 1
        stop = scores[:, self.stop].clone()
        scores = scores.masked_fill(ends.unsqueeze(1), float("-inf"))
        scores[:, self.stop] = stop.masked_fill(~ends, float("-inf"))
        return scores


def resident(field: str) -> float:
    """Return VmRSS (now) or VmHWM (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter and are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
