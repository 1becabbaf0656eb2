"""The unsloth backend beside the plain one, each in a process of its own: unsloth must come before transformers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lite_huatuo.bench.checks import NotRun
from lite_huatuo.bench.place import Place

ALIKE = 0.05  # relative, between the gradients of both backends
ROWS = (list(range(5, 205)), list(range(5, 105)))


def run(place: Place) -> dict[str, Any]:
    """Return what both backends give for one base and adapter."""
    import torch

    from lite_huatuo.bench import assembled

    if importlib.util.find_spec("unsloth") is None:
        raise NotRun("unsloth is not installed")
    if not torch.cuda.is_available():
        raise NotRun("unsloth's kernels need a CUDA card")
    assembled.stage(place)  # for its adapter
    assembled.release(place)
    found = {backend: _asked(place, backend) for backend in ("plain", "unsloth")}
    plain, other = found["plain"]["gradient"], found["unsloth"]["gradient"]
    return {
        **found,
        "holds": {
            "a rollout leaves gradient checkpointing on": all(
                each["checkpointing_after"] == each["checkpointing_before"] > 0 for each in found.values()
            ),
            "both backends give the same gradient": abs(other - plain) <= ALIKE * plain,
        },
    }


def _asked(place: Place, backend: str) -> dict[str, Any]:
    """Return one backend's figures, from a process of its own."""
    to = place.work / f"{backend}.json"
    words = [sys.executable, "-m", "lite_huatuo.bench.unsloth", backend, str(place.base), str(place.start), str(to)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{backend}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(to.read_text())


def measured(backend: str, base: str, adapter: Path) -> dict[str, Any]:
    """Return gradient norms before and after a rollout, and how many modules checkpoint before and after it."""
    from lite_huatuo.models import backends

    loaded = backends.load(base, backend=backend, max_length=2048)  # first of all: unsloth patches what it is before
    import torch

    from lite_huatuo.models.shared_base import SharedBase
    from lite_huatuo.training import decoding_padded

    shared = SharedBase.from_adapters(loaded, {"actor": adapter}, ("actor",))
    shared.enable_checkpointing()

    def checkpointing() -> int:
        return sum(bool(getattr(module, "gradient_checkpointing", False)) for module in shared.causal.modules())

    def gradient() -> float:
        parameters = shared.parameters("actor").values()
        with shared.using("actor", learn=True):
            shared.states(ROWS).float().pow(2).mean().backward()
        total = sum(float(p.grad.double().pow(2).sum()) for p in parameters if p.grad is not None) ** 0.5
        for parameter in parameters:
            parameter.grad = None
        return total

    before, norm = checkpointing(), gradient()
    with shared.using("actor"):
        decoding_padded.decode(
            shared, [list(row) for row in ROWS], max_reply_length=8, batch_size=2, temperature=0.5, top_p=1.0
        )
    return {
        "gradient": norm,
        "gradient_after_a_rollout": gradient(),
        "checkpointing_before": before,
        "checkpointing_after": checkpointing(),
        "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    _, chosen, where, start, result = sys.argv
    Path(result).write_text(json.dumps(measured(chosen, where, Path(start))))
