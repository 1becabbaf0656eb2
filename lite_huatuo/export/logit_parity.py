"""Does the exported folder answer like the model it was made from? Loaded back and asked, where memory allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, parity
from lite_huatuo.export.parity import TOLERANCE, Answers
from lite_huatuo.models import backends
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase

Log = dict[str, Any]
MARGIN = 1.3  # memory for a float32 model, to that of its weights


def compare(folder: Path, adapter: Path, *, base: Log, onto: str, dtype: str) -> Log:
    """Return KL to base + unmerged adapter and to the model as trained, and how many greedy texts are the same.

    Above `parity.TOLERANCE` raise an ExportError. Models are loaded one after another, in float32.
    """
    need, device = MARGIN * 4 * _parameters(folder), backends.own_device()
    free = _free(device)
    if need > free:
        have = f"{free / 2**30:.1f} are available on {device}"
        return {"logits": f"not compared: needs {need / 2**30:.1f} GiB of memory, {have}"}
    base = {"quantization": "nf4", **base, "backend": "plain", "keep_dequantised": False}
    trained = _with_adapter(base, adapter)
    stored = {**base, "quantization": "none", "compute_dtype": "float32"}
    unmerged = trained if onto == "trained" else _with_adapter(stored, adapter)
    attention = base.get("attention", "sdpa")
    found = _alone(
        backends.load(str(folder), quantization="none", compute_dtype="float32", backend="plain", attention=attention)
    )
    same, drift = parity.compare(unmerged, found), parity.compare(trained, found)
    if not same.kl <= TOLERANCE[dtype]:
        raise ExportError(
            f"{folder}: the exported model differs from base + adapter by KL {same.kl:.2e} a token, more than "
            f"{TOLERANCE[dtype]:.0e} for {dtype}; export with another --dtype, and report this"
        )
    return {
        "logits": "compared",
        "kl_to_unmerged": same.kl,
        "same_first_choice": same.same_first_choice,
        "tolerance": TOLERANCE[dtype],
        "same_greedy_texts": same.same_texts,
        "greedy_texts": len(parity.PROMPTS),
        "kl_to_trained": drift.kl,
    }


def _free(device: torch.device) -> int:
    """Return the free bytes of the device that models are loaded onto."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _parameters(folder: Path) -> int:
    """Return the number of stored weights."""
    return sum(
        torch.Size(info.shape).numel()
        for path in folder.glob("*.safetensors")
        for info in base_files.header(path).values()
    )


def _with_adapter(base: Log, adapter: Path) -> Answers:
    """Return the answers of a base with the unmerged adapter: the weights that its compute type gives, in float32."""
    loaded = backends.load(**base)
    if base["quantization"] != "none":
        loaded.model.dequantize()
    loaded.model.float()
    shared = SharedBase.from_adapters(loaded, {"actor": adapter}, ())
    with shared.using("actor"):
        return parity.ask(shared.causal, shared.tokenizer)


def _alone(loaded: LoadedBase) -> Answers:
    return parity.ask(loaded.model, loaded.tokenizer)
