"""Merge a run's actor into 16-bit weights. Never into 4-bit ones: requantising erases what the adapter learned.

Two promises. `base`: the original 16-bit base plus the adapter, the better general model, close to what was trained.
`trained`: the dequantised 4-bit base plus the adapter, exactly the model that was trained.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lite_huatuo import jsonl
from lite_huatuo.errors import ExportError
from lite_huatuo.export import parity
from lite_huatuo.export.parity import TOLERANCE
from lite_huatuo.models import backends
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase

Log = dict[str, Any]


def export(adapter: Path, to: Path, *, base: dict[str, Any], onto: str, dtype: str, max_shard_size: str) -> Log:
    """Write the merged model with tokenizer and generation config to the new folder `to`; return the figures.

    `base` is the recipe's base section. The result is reloaded and compared with the same base plus the unmerged
    adapter; beyond `parity.TOLERANCE` nothing is left at `to`. Needs memory for the model in float32.
    """
    if to.exists():
        raise ExportError(f"{to}: already exists; give a new folder")
    temporary = to.with_name(f".tmp-{to.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"{to}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        figures = {"onto": onto, "dtype": dtype, **_export(adapter, temporary, base, onto, dtype, max_shard_size)}
        jsonl.write_text(temporary / "export.json", json.dumps(figures, indent=2) + "\n")
        os.replace(temporary, to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return figures


def _export(adapter: Path, folder: Path, base: dict[str, Any], onto: str, dtype: str, max_shard_size: str) -> Log:
    """Merge into `folder`, reload it, compare."""
    base = {**base, "compute_dtype": "float32", "backend": "plain", "keep_dequantised": False}
    trained = _unmerged(backends.load(**base), adapter)
    unmerged, merged = _merge(base, adapter, onto)
    merged.model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    merged.tokenizer.hf.save_pretrained(folder)
    del merged
    reloaded = backends.load(
        str(folder), quantization="none", compute_dtype="float32", backend="plain", attention=base["attention"]
    )
    found = _distributions(reloaded)
    same, drift = parity.compare(unmerged, found), parity.compare(trained, found)
    if not same.kl <= TOLERANCE[dtype]:
        raise ExportError(
            f"{folder}: the exported model differs from base + adapter by KL {same.kl:.2e} a token, more than "
            f"{TOLERANCE[dtype]:.0e} for {dtype}; export with another --dtype, and report this"
        )
    return {
        "kl_to_unmerged": same.kl,
        "same_first_choice": same.same_first_choice,
        "tolerance": TOLERANCE[dtype],
        "kl_to_trained": drift.kl,
    }


def _merge(base: dict[str, Any], adapter: Path, onto: str) -> tuple[list[torch.Tensor], LoadedBase]:
    """Return (distributions of base + unmerged adapter, the merged model), both on the chosen base in float32."""
    loaded = backends.load(**(base if onto == "trained" else {**base, "quantization": "none"}))
    network = loaded.model
    if onto == "trained" and base["quantization"] != "none":
        network = network.dequantize().to(torch.float32)
    shared = SharedBase.from_adapters(replace(loaded, model=network), {"actor": adapter}, ())
    with shared.using("actor"):
        expected = _distributions_of(shared)
        return expected, replace(loaded, model=shared.peft.merge_and_unload(safe_merge=True))


def _unmerged(loaded: LoadedBase, adapter: Path) -> list[torch.Tensor]:
    """Return the distributions of the model as trained: the quantised base with the adapter."""
    shared = SharedBase.from_adapters(loaded, {"actor": adapter}, ())
    with shared.using("actor"):
        return _distributions_of(shared)


def _distributions_of(shared: SharedBase) -> list[torch.Tensor]:
    return parity.distributions(
        lambda ids: shared.causal(input_ids=ids, use_cache=False).logits, shared.tokenizer, shared.device
    )


def _distributions(loaded: LoadedBase) -> list[torch.Tensor]:
    return parity.distributions(
        lambda ids: loaded.model(input_ids=ids, use_cache=False).logits, loaded.tokenizer, loaded.model.device
    )
