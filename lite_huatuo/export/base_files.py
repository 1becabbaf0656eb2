"""The base model's weight files: which tensors stand where, and how rows of one are read, whatever the model's size.

A local folder, the Hub's cache, or shards that are fetched one by one and deleted when they are used (`low_disk`).
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, get_safetensors_metadata, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lite_huatuo.errors import ExportError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CHUNK = 1 << 19  # elements of a tensor that are worked on at once: 2 MiB in float32, which caches hold


class _AbsentError(ExportError):
    """The Hub has no such file."""


class Info(NamedTuple):
    """Shape and element type of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class BaseFiles:
    """The shards of a base: {file name: {tensor name: Info}}, in the order in which they are worked through.

    `fetched` is the folder for shards under `low_disk`, else None.
    """

    source: str
    revision: str | None
    shards: dict[str, dict[str, Info]]
    fetched: Path | None

    def path(self, shard: str) -> Path:
        """Return the shard's local path; fetch it first where it is not there."""
        if self.fetched is None:
            return _path(self.source, self.revision, shard)
        return _download(self.source, self.revision, shard, self.fetched)

    def done(self, shard: str) -> None:
        """Delete a shard that was fetched for this export only."""
        if self.fetched is not None:
            (self.fetched / shard).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the folder of fetched shards."""
        if self.fetched is not None:
            shutil.rmtree(self.fetched, ignore_errors=True)


def find(source: str, revision: str | None, fetched: Path | None = None) -> BaseFiles:
    """List the shards of a model folder or Hub id; `fetched`: take its shards one by one into this folder."""
    if fetched is not None and not Path(source).is_dir():
        commit, shards = _remote(source, revision)
        return BaseFiles(source, commit, shards, fetched)
    names = _names(Path(source)) if Path(source).is_dir() else _hub_names(source, revision)
    return BaseFiles(source, revision, {name: header(_path(source, revision, name)) for name in names}, None)


def header(path: Path) -> dict[str, Info]:
    """Return the tensors of a safetensors file, without their data."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: _info(path, name, s.get_shape(), s.get_dtype()) for name, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: cannot be read as safetensors ({error})") from None


def rows(
    path: Path,
    name: str,
    start: int,
    stop: int,
    dtype: torch.dtype | None = None,
    *,
    held: torch.dtype | None = None,
) -> Tensor:
    """Return rows of a tensor, all of a scalar, as `dtype` or as stored; floats are first rounded to `held`, if given.

    The file is opened anew each time and its bytes are copied once, so that no page stays mapped.
    """
    with safe_open(path, "pt") as file:
        part = file.get_slice(name)
        found = part[start:stop] if part.get_shape() else file.get_tensor(name)
        if held is not None and found.is_floating_point():
            found = found.to(held)
        return found.to(dtype or found.dtype, copy=True)


def spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of rows such that each part has at most CHUNK elements, or one row."""
    count = shape[0] if shape else 1
    width = max(1, int(torch.Size(shape[1:]).numel()))
    step = max(1, CHUNK // width)
    for start in range(0, count, step):
        yield start, min(count, start + step)


def _names(folder: Path) -> list[str]:
    if (folder / INDEX).is_file():
        return _index_names(folder / INDEX)
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    raise ExportError(f"{folder}: holds no {WEIGHTS} and no {INDEX}; only safetensors weights are read")


def _hub_names(source: str, revision: str | None) -> list[str]:
    """Return the shards of a Hub model: those of its index; one file where the Hub says that there is no index."""
    try:
        return _index_names(_download(source, revision, INDEX, None))
    except _AbsentError:
        return [WEIGHTS]
    except ExportError:
        if isinstance(try_to_load_from_cache(source, WEIGHTS, revision=revision), str):
            return [WEIGHTS]  # the Hub does not answer, and what was fetched before is one file
        raise


def _index_names(path: Path) -> list[str]:
    try:
        names = {_plain(name, path) for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ExportError(f"{path}: damaged index ({type(error).__name__}: {error})") from None
    return sorted(names)


def _plain(name: object, where: Path | str) -> str:
    """Return a shard's name; refuse one that leads out of its folder, where shards are read and deleted."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or name != Path(name).name:
        raise ExportError(f"{where}: {str(name)[:80]!r} is no name of a safetensors file in its folder")
    return name


def _path(source: str, revision: str | None, name: str) -> Path:
    return Path(source) / name if Path(source).is_dir() else _download(source, revision, name, None)


def _download(source: str, revision: str | None, name: str, folder: Path | None) -> Path:
    """Return a Hub file in the cache, or in `folder`."""
    try:
        return Path(hf_hub_download(source, name, revision=revision, local_dir=folder))
    except RemoteEntryNotFoundError:
        raise _AbsentError(f"{source}: {name}: there is no such file on the Hub; only safetensors are read") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, RuntimeError) as error:
        # RuntimeError: what hf_xet raises where its store breaks
        raise ExportError(f"{source}: {name}: cannot be fetched from the Hub ({first_line(error)})") from None


def _remote(source: str, revision: str | None) -> tuple[str | None, dict[str, dict[str, Info]]]:
    """Return the commit of a Hub model and what stands in its shards, from their first bytes."""
    try:
        commit = HfApi().model_info(source, revision=revision).sha
        found = get_safetensors_metadata(source, revision=commit)
    except Exception as error:  # network, access, and forms that are no safetensors
        raise ExportError(f"{source}: its shards cannot be listed ({first_line(error)})") from None
    return commit, {
        _plain(shard, source): {
            name: _info(shard, name, info.shape, info.dtype) for name, info in stored.tensors.items()
        }
        for shard, stored in sorted(found.files_metadata.items())
    }


def _info(path: Path | str, name: str, shape: list[int], dtype: str) -> Info:
    if dtype not in DTYPES:
        raise ExportError(f"{path}: {name}: weights of type {dtype}; give a base in 16 or 32 bit")
    if math.prod(max(1, size) for size in shape) > 1 << 60:  # of no bytes where one is 0, and yet too large for torch
        raise ExportError(f"{path}: {name}: no tensor has the shape {shape}; the file is damaged")
    return Info(tuple(shape), DTYPES[dtype])


def first_line(error: Exception) -> str:
    """Return what an error says, or what it came from; without the queries of addresses, which may be signed."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return re.sub(r"(https?://[^\s?'\"<>]*)\?[^\s'\"<>]*", r"\1", str(cause or error).strip().split("\n")[0])
