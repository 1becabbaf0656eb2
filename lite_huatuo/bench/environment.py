"""Versions, the card, and whether NF4 works on it. Nothing here changes from one run to the next on one machine."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from lite_huatuo import __version__
from lite_huatuo.bench import measure
from lite_huatuo.bench.place import Place
from lite_huatuo.planning import hardware
from lite_huatuo.run_dir import PACKAGES

# What torch's choice of an attention kernel means (torch.nn.attention.SDPBackend).
KERNELS = {-1: "none", 0: "math", 1: "flash", 2: "memory-efficient", 3: "cuDNN"}


def run(place: Place) -> dict[str, Any]:
    """Return versions, the card, the attention kernels it takes, and what NF4 lacks."""
    card = _card() if measure.cuda() else {}
    failure = hardware.nf4_failure(str(measure.device()))
    return {
        "lite_huatuo": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": {name: hardware.version(name) for name in PACKAGES},
        **card,
        "nf4_failure": failure,
        "holds": {"NF4 works": failure is None},
    }


def _card() -> dict[str, Any]:
    """Return the card's facts; no serial number, no address on the bus."""
    found = torch.cuda.get_device_properties(0)
    return {
        "card": found.name,
        "cards": torch.cuda.device_count(),
        "compute_capability": f"{found.major}.{found.minor}",
        "memory_gib": round(found.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        "attention": _attention(),
    }


def _attention() -> dict[str, str]:
    """Return which kernel torch takes for a decoding step of 32 rows and for a packed row."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device=measure.device(), dtype=torch.bfloat16)

    mask = torch.ones(32, 1, 1, 301, device=measure.device(), dtype=torch.bool)
    q, k = empty(32, 4, 7, 128), empty(32, 4, 301, 128)
    long, short = empty(1, 28, 301, 128), empty(1, 4, 301, 128)
    choice = torch._fused_sdp_choice
    return {
        "decoding step": KERNELS.get(int(choice(q, k, k, attn_mask=mask)), "unknown"),
        "packed row": KERNELS.get(int(choice(long, short, short, is_causal=True, enable_gqa=True)), "unknown"),
    }
