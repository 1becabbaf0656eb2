"""PPO checkpoints: everything a resumed run needs to equal an uninterrupted one, as safetensors and JSON.

    checkpoints/update-000020/{actor,critic}/  value_head.safetensors  optimizers.safetensors  state.json

A checkpoint is written under another name and renamed when whole: what is there is complete. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lite_huatuo import jsonl
from lite_huatuo.errors import CheckpointError
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead

Optimizers = dict[str, torch.optim.Optimizer]


def save(folder: Path, shared: SharedBase, head: ValueHead, optimizers: Optimizers, state: dict[str, Any]) -> None:
    """Write a checkpoint at `folder`; `state` is the stage's own JSON (update, best evaluation, …)."""
    temporary = _fresh(folder)
    for adapter in ("actor", "critic"):
        shared.save(adapter, temporary / adapter)
    head.save(temporary / "value_head.safetensors")
    tensors, scalars = _pack_optimizers(optimizers)
    save_file({**tensors, "rng.torch": torch.get_rng_state(), **_cuda_rng()}, temporary / "optimizers.safetensors")
    whole = {"stage": state, "optimizers": scalars, "rng": {"python": random.getstate(), "numpy": _numpy_rng()}}
    jsonl.write_text(temporary / "state.json", json.dumps(whole) + "\n")
    _sync(temporary)
    os.replace(temporary, folder)


def load(folder: Path, shared: SharedBase, head: ValueHead, optimizers: Optimizers) -> dict[str, Any]:
    """Restore adapters, value head, optimisers and random states; return the stage's own state."""
    try:
        whole = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "optimizers.safetensors")
        for adapter in ("actor", "critic"):
            shared.load(adapter, folder / adapter)
        head.load(folder / "value_head.safetensors")
        _unpack_optimizers(optimizers, tensors, whole["optimizers"])
        _restore_rng(tensors, whole["rng"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: damaged checkpoint ({type(error).__name__}: {error}); "
            "delete this folder to resume from the one before"
        ) from None
    return whole["stage"]


def save_policy(folder: Path, shared: SharedBase, head: ValueHead, adapters: tuple[str, ...]) -> None:
    """Write adapters and value head only, whole or not at all."""
    temporary = _fresh(folder)
    for adapter in adapters:
        shared.save(adapter, temporary / adapter)
    head.save(temporary / "value_head.safetensors")
    _sync(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint in a checkpoints folder, or None; what was never finished is deleted."""
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover)
    return max(folder.glob("update-*"), default=None)


def at_most(folder: Path, update: int) -> Path | None:
    """Return the newest checkpoint that is not after an update, or None."""
    found = (path for path in folder.glob("update-*") if int(path.name.rpartition("-")[2]) <= update)
    return max(found, default=None)


def prune(folder: Path, keep: int, *, spare: int) -> None:
    """Delete all but the newest `keep` checkpoints and the newest one that is not after update `spare`."""
    spared = at_most(folder, spare)
    for old in sorted(folder.glob("update-*"))[:-keep]:
        if old != spared:
            shutil.rmtree(old)


def _fresh(folder: Path) -> Path:
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _sync(folder: Path) -> None:
    """Flush every file of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _pack_optimizers(optimizers: Optimizers) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Return (tensors, scalars) of all optimiser states, keyed optimiser.parameter.name."""
    tensors, scalars = {}, {}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}.{index}.{key}"] = value.detach().cpu().contiguous().clone()
                else:
                    scalars[f"{name}.{index}.{key}"] = value
    return tensors, scalars


def _unpack_optimizers(optimizers: Optimizers, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> None:
    """Load what `_pack_optimizers` returned."""
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **scalars}.items():
            owner, _, rest = key.partition(".")
            if owner == name:
                index, _, field = rest.partition(".")
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _numpy_rng() -> list[Any]:
    kind, keys, *rest = numpy.random.get_state()
    return [kind, numpy.asarray(keys).tolist(), *rest]


def _cuda_rng() -> dict[str, torch.Tensor]:
    if not torch.cuda.is_available():
        return {}
    return {f"rng.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}


def _restore_rng(tensors: dict[str, torch.Tensor], states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["rng.torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[key] for key in sorted(tensors) if key.startswith("rng.cuda.")])
