"""PPO checkpoints: everything a resumed run needs to equal an uninterrupted one, as safetensors and JSON.

    checkpoints/update-000020/{actor,critic}/  value_head.safetensors  optimizers.safetensors  state.json  origin.json
                              manifest.json

A checkpoint is written under another name and renamed when whole: what is there is complete. Its manifest tells whether
it still is, origin.json whose it is. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lite_huatuo import jsonl, manifest
from lite_huatuo.errors import CheckpointError
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training.progress import Progress

Optimizers = dict[str, torch.optim.Optimizer]

ORIGIN = "origin.json"  # in a checkpoint: of which run it is, and of which update or step


def save(
    folder: Path, shared: SharedBase, head: ValueHead, optimizers: Optimizers, state: dict[str, Any], *, run: str | None
) -> None:
    """Write a checkpoint of the run with that id; `state` is the stage's own JSON (update, best evaluation, …)."""
    tensors, scalars = pack_optimizers(optimizers)  # first: it may refuse
    temporary = fresh(folder)
    for adapter in ("actor", "critic"):
        shared.save(adapter, temporary / adapter)
    head.save(temporary / "value_head.safetensors")
    generators, states = random_states()
    save_file({**tensors, **generators}, temporary / "optimizers.safetensors")
    whole = {"stage": state, "optimizers": scalars, "rng": states}
    jsonl.write_text(temporary / "state.json", json.dumps(whole) + "\n")
    mark(temporary, run, state["update"])
    put(temporary, folder)


def load(
    folder: Path, shared: SharedBase, head: ValueHead, optimizers: Optimizers, progress: Progress
) -> dict[str, Any]:
    """Restore adapters, value head, optimisers and random states; return the stage's own state.

    Where there are other cards now than there were, random states are restored as far as they fit, with a note.
    """
    try:
        whole = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "optimizers.safetensors")
        for adapter in ("actor", "critic"):
            shared.load(adapter, folder / adapter)
        head.load(folder / "value_head.safetensors")
        unpack_optimizers(optimizers, tensors, whole["optimizers"])
        note = restore_random_states(tensors, whole["rng"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: damaged checkpoint ({type(error).__name__}: {error}); "
            "delete this folder to resume from the one before"
        ) from None
    if note is not None:
        progress.note(f"{folder.name}: {note}")
    return whole["stage"]


def save_policy(folder: Path, shared: SharedBase, head: ValueHead, adapters: tuple[str, ...]) -> None:
    """Write adapters and value head only, whole or not at all."""
    temporary = fresh(folder)
    for adapter in adapters:
        shared.save(adapter, temporary / adapter)
    head.save(temporary / "value_head.safetensors")
    put(temporary, folder)


def newest(
    run: RunDir, stage: str, pattern: str, progress: Progress, processes: Processes = ALONE, *, in_place: bool = False
) -> Path | None:
    """Return a stage's newest sound checkpoint (see `latest`); damaged ones are told and stand in the run's events."""
    folder = run.stage(stage) / "checkpoints"
    path, told = processes.once(lambda: latest(folder, pattern, run=run.id, in_place=in_place))
    for text in told:
        progress.note(f"warning: {stage}: {text}")
        run.event("damaged checkpoint", stage=stage, text=text)
    return path


def latest(
    folder: Path, pattern: str, *, run: str | None = None, in_place: bool = False
) -> tuple[Path | None, list[str]]:
    """Return the newest sound checkpoint in a checkpoints folder, or None, and what is wrong with newer ones.

    What was never finished is deleted (where checkpoints are written `in_place`: those without a manifest), damaged
    ones and those of another run than the one with the id `run`, or of another update than their name says, are set
    aside under another name. CheckpointError where all that there are are damaged: to begin again must be the user's
    choice.
    """
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover)
    told: list[str] = []
    for path in sorted(folder.glob(pattern), key=number, reverse=True):
        if in_place and not (path / manifest.NAME).exists():
            shutil.rmtree(path)
            continue
        wrong = manifest.damage(path) or misplaced(path, run)
        if wrong is None:
            return path, told
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        told.append(f"{path.name} is damaged ({wrong}); it was set aside as {aside.name}")
    if told:
        raise CheckpointError(
            f"{folder}: no sound checkpoint: {'; '.join(told)}. Put one back from a copy, or delete the damaged ones "
            "to begin the stage again"
        )
    if damaged := sorted(path.name for path in folder.glob("damaged-*")):
        raise CheckpointError(f"{folder}: only {', '.join(damaged)} here; delete them to begin the stage again")
    return None, told


def mark(folder: Path, run: str | None, number: int) -> None:
    """Write into a checkpoint, before it is sealed, of which run (its id) and of which update or step it is."""
    jsonl.write_text(folder / ORIGIN, json.dumps({"run": run, "number": number}) + "\n")


def misplaced(path: Path, run: str | None) -> str | None:
    """Return in words why a sealed checkpoint is not the one that its name and its place say, or None where it is.

    A run from before runs had ids (None) takes those of any, and those that say nothing.
    """
    if not (path / ORIGIN).exists():
        return None if run is None else f"{ORIGIN} is missing"
    try:
        origin = json.loads((path / ORIGIN).read_text(encoding="utf-8"))
        whose, of = origin["run"], int(origin["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{ORIGIN} is damaged"
    if of != number(path):
        return f"it is number {of} under another name"
    return "it is of another run" if run not in (None, whose) else None


def number(path: Path) -> int:
    """Return the update or step of a checkpoint's folder."""
    return int(path.name.rpartition("-")[2])


def at_most(folder: Path, update: int) -> Path | None:
    """Return the newest checkpoint that is not after an update, or None."""
    found = (path for path in folder.glob("update-*") if number(path) <= update)
    return max(found, default=None)


def prune(folder: Path, keep: int, *, spare: int) -> None:
    """Delete all but the newest `keep` checkpoints and the newest one that is not after update `spare`."""
    spared = at_most(folder, spare)
    for old in sorted(folder.glob("update-*"))[:-keep]:
        if old != spared:
            shutil.rmtree(old)


def fresh(folder: Path) -> Path:
    """Return a new folder beside the one that `put` will make of it."""
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def put(temporary: Path, folder: Path) -> None:
    """Seal a folder, flush it to the disk, and rename it into place."""
    manifest.seal(temporary)
    sync(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def sync(folder: Path) -> None:
    """Flush every file of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def pack_optimizers(optimizers: Optimizers) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Return (tensors, scalars) of all optimiser states, keyed optimiser.parameter.name.

    What stands in a dict within a state, as bitsandbytes keeps its tensors, is keyed optimiser.parameter.name.name.
    CheckpointError where a state holds anything that is neither a tensor nor JSON's.
    """
    flat: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            flat.update(_flat(state, f"{name}.{index}"))
    tensors = {key: value for key, value in flat.items() if isinstance(value, torch.Tensor)}
    scalars = {key: value for key, value in flat.items() if key not in tensors}
    for key, value in scalars.items():
        if not isinstance(value, bool | int | float | str | None):
            raise CheckpointError(
                f"optimizer: {type(optimizers[key.partition('.')[0]]).__name__} keeps a {type(value).__name__} in "
                f"{key}, which a checkpoint cannot hold; set another optimizer"
            )
    return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, scalars


def unpack_optimizers(optimizers: Optimizers, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> None:
    """Load what `pack_optimizers` returned."""
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **scalars}.items():
            owner, _, rest = key.partition(".")
            if owner == name:
                index, *outer, field = rest.split(".")
                place = state.setdefault(int(index), {})
                for each in outer:
                    place = place.setdefault(each, {})
                place[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flat(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the values of a dict of dicts, keyed by the path to them."""
    flat: dict[str, Any] = {}
    for key, value in state.items():
        inner = isinstance(value, dict)
        flat.update(_flat(value, f"{prefix}.{key}") if inner else {f"{prefix}.{key}": value})
    return flat


def _numpy_rng() -> list[Any]:
    kind, keys, *rest = numpy.random.get_state()
    return [kind, numpy.asarray(keys).tolist(), *rest]


def _cuda_rng() -> dict[str, torch.Tensor]:
    if not torch.cuda.is_available():
        return {}
    return {f"rng.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}


def random_states() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the states of torch's generators, and of Python's and numpy's."""
    tensors = {"rng.torch": torch.get_rng_state(), **_cuda_rng()}
    return tensors, {"python": random.getstate(), "numpy": _numpy_rng()}


def restore_random_states(tensors: dict[str, torch.Tensor], states: dict[str, Any]) -> str | None:
    """Set what `random_states` returned; tensors may hold others beside. Return what `restore_cards` does."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["rng.torch"])
    cards = [key for key in tensors if key.startswith("rng.cuda.")]
    return restore_cards([tensors[f"rng.cuda.{card}"] for card in range(len(cards))])


def restore_cards(states: Sequence[torch.Tensor]) -> str | None:
    """Set the random states of the CUDA devices, as many as there are here; return in words where that is another
    number than there are states."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for card, state in zip(range(cards), states, strict=False):
        torch.cuda.set_rng_state(state, card)
    if cards == len(states):
        return None
    return f"holds the random states of {len(states)} CUDA devices, here are {cards}; as many as fit were restored"


def save_random_states(folder: Path, rank: int) -> None:
    """Write the random states of the process with that rank into a checkpoint's folder."""
    tensors, states = random_states()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"random-{rank}.safetensors")
    jsonl.write_text(folder / f"random-{rank}.json", json.dumps(states) + "\n")


def load_random_states(folder: Path, rank: int, count: int) -> list[str]:
    """Restore the random states that one of `count` processes wrote, or those of the first process that wrote any.

    Return in words what is not as it was.
    """
    names = sorted(path.stem for path in folder.glob("random-*.json"))
    if "random-0" not in names:
        return ["holds no random states"]
    name = f"random-{rank}" if f"random-{rank}" in names and len(names) == count else "random-0"
    states = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    note = restore_random_states(load_file(folder / f"{name}.safetensors"), states)
    other = [] if len(names) == count else ["was written by another number of processes; random states are its first's"]
    return other + ([note] if note else [])
