"""Which tensor of the exported model is made from which tensor of the base, and in which shard it will stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

from lite_huatuo.errors import ExportError
from lite_huatuo.export.base_files import INDEX, WEIGHTS, Info
from lite_huatuo.export.shard_writer import size

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class Made(NamedTuple):
    """One tensor of the exported model: its own form, and the base's tensor it is made from."""

    info: Info
    source: str
    stored: Info


class OutShard(NamedTuple):
    """One file of the exported model; every tensor in it is made from one shard of the base."""

    name: str
    base_shard: str
    tensors: dict[str, Made]


def shards(
    base: Mapping[str, Mapping[str, Info]], changed: set[str], tied: Mapping[str, str], dtype: torch.dtype, limit: int
) -> list[OutShard]:
    """Lay out the exported files: the base's order, cut where a base shard ends or `limit` bytes are passed.

    Tied tensors stay one where the adapter changes neither; else both are written.
    """
    groups: list[tuple[str, dict[str, Made]]] = []
    found: set[str] = set()
    for base_shard, tensors in base.items():
        group: dict[str, Made] = {}
        total = 0
        for name, made in _made(tensors, changed, tied, dtype):
            if group and total + size(made.info) > limit:
                groups.append((base_shard, group))
                group, total = {}, 0
            group[name] = made
            total += size(made.info)
        if group:
            groups.append((base_shard, group))
        found |= {name for _, group in groups for name in group}
    missing = sorted(changed - found)
    if missing:
        raise ExportError(f"{missing[0]}: the adapter changes it, but the base has no such tensor; is it another base?")
    count = len(groups)
    return [
        OutShard(WEIGHTS if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors", base_shard, group)
        for number, (base_shard, group) in enumerate(groups, 1)
    ]


def unties(changed: set[str], tied: Mapping[str, str]) -> bool:
    """True where the adapter changes one of two tensors that are one in the base."""
    return any(name in changed for pair in tied.items() for name in pair)


def index(planned: list[OutShard]) -> dict[str, object] | None:
    """Return the content of the index file, or None for a single shard."""
    if len(planned) == 1:
        return None
    total = sum(size(made.info) for shard in planned for made in shard.tensors.values())
    places = {name: shard.name for shard in planned for name in shard.tensors}
    return {"metadata": {"total_size": total}, "weight_map": places}


def file_sizes(planned: list[OutShard]) -> dict[str, int]:
    """Return about how many bytes each file will have (its tensors; the header adds some kilobytes)."""
    sizes = {shard.name: sum(size(made.info) for made in shard.tensors.values()) for shard in planned}
    return sizes if len(planned) == 1 else {**sizes, INDEX: 100 * sum(len(shard.tensors) for shard in planned)}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 5GB or 500MiB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", text.upper())
    if not match:
        raise ExportError(f"export.max_shard_size: {text}: not a size; write it like 5GB or 500MiB")
    return max(1, int(float(match[1]) * UNITS[match[2] or ""]))


def _made(
    tensors: Mapping[str, Info], changed: set[str], tied: Mapping[str, str], dtype: torch.dtype
) -> list[tuple[str, Made]]:
    """Return the exported tensors that are made from one base shard, named."""
    untied = unties(changed, tied)
    made = []
    for name, stored in tensors.items():
        if name in tied:  # stored twice, or of no meaning: the tensor it shares is what counts
            continue
        info = Info(stored.shape, dtype if stored.dtype.is_floating_point else stored.dtype)
        made.append((name, Made(info, name, stored)))
        if untied:
            made += [(other, Made(info, name, stored)) for other, shared in tied.items() if shared == name]
    return made
