"""Write a safetensors file piece by piece, hashed on the way: the library's own writer wants all tensors at once.

The format (safetensors 0.8): the header's length (8 bytes, little-endian), the header as JSON padded with spaces to a
multiple of 8, then the tensors' bytes, row-major, without gaps.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lite_huatuo.export.base_files import DTYPES, Info

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def size(info: Info) -> int:
    """Return a tensor's bytes."""
    return torch.Size(info.shape).numel() * info.dtype.itemsize


def write(path: Path, tensors: dict[str, Info], pieces: Iterable[Tensor]) -> str:
    """Write tensors in their order; `pieces` are their rows, one after another. Flush; return the file's SHA-256.

    A piece is hashed and written on a thread of its own while the next one is made.
    """
    places, offset = {}, 0
    for name, info in tensors.items():
        end = offset + size(info)
        places[name] = {"dtype": NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **places}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        last = beside.submit(put, len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            data = piece.contiguous().reshape(-1).view(torch.uint8).numpy().data
            last.result()
            last = beside.submit(put, data)
            written += len(data)
        last.result()
        file.flush()
        os.fsync(file.fileno())
    assert written == offset, f"{path}: {written} bytes of tensors, {offset} announced"
    return digest.hexdigest()
