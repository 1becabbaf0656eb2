"""The header of a GGUF file, walked and held against the file before any library reads it.

The libraries believe a header: one that claims 2^60 values makes them allocate until the memory is full. Here every
claim is checked first, in time and memory that grow with the file alone. The format: github.com/ggml-org/ggml,
docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from lite_huatuo.errors import BackendError

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ITEMS = 4_000_000  # values in all arrays together; the largest vocabularies with their merges have about 1 million
DEPTH = 4  # arrays inside one another
DIMENSIONS = 4
# Sizes of the network that no tensor of the file may be too small for.
SIZES = ("block_count", "embedding_length", "feed_forward_length", "vocab_size", "expert_count", "expert_used_count",
         "expert_feed_forward_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
         "attention.value_length")  # fmt: skip


class _Damaged(Exception):
    """What is wrong with a header."""


@dataclass
class Header:
    """What a GGUF file says of itself: single values by key, lengths of arrays by key, and the tensors' shapes."""

    values: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)


def read(path: Path) -> Header:
    """Return the header of a GGUF file; BackendError tells what in it cannot be true."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(data).header()
    except (_Damaged, struct.error, UnicodeDecodeError) as error:
        what = error if isinstance(error, _Damaged) else "it breaks off, or holds a name that is no text"
        raise BackendError(f"{path}: not a whole GGUF file: {what}; fetch the file again") from None
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise BackendError(f"{path}: cannot be read as a GGUF file ({error})") from None


class _Walk:
    """One walk through a header, from its first byte to the last tensor's entry."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place, self.items = data, 0, 0

    def header(self) -> Header:
        if self.data[:4] != b"GGUF":
            raise _Damaged("it does not begin with GGUF")
        self.place = 4
        version = self.number("I")
        if version not in (2, 3):
            raise _Damaged(f"version {version:#x} is neither 2 nor 3 (or of the other byte order)")
        tensors, values = self.number("Q"), self.number("Q")
        self.fits(tensors, 24, "tensors")
        self.fits(values, 13, "values")
        header = Header()
        for _ in range(values):
            self.value(header)
        entries = [self.tensor(header) for _ in range(tensors)]
        alignment = header.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _Damaged("general.alignment is no power of two")
        start = -(-self.place // alignment) * alignment
        self.lay_out(entries, len(self.data) - start)
        _sizes(header)
        return header

    def number(self, code: str) -> Any:
        """Read one number."""
        (value,) = struct.unpack_from(f"<{code}", self.data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return value

    def fits(self, count: int, least: int, what: str) -> None:
        """Refuse a count of things, of `least` bytes each, that the rest of the file cannot hold."""
        if count * least > len(self.data) - self.place:
            raise _Damaged(f"it claims {count} {what}, more than fit into it")

    def string(self) -> bytes:
        """Read a length and as many bytes."""
        length = self.number("Q")
        self.fits(length, 1, "bytes of text")
        self.place += length
        return self.data[self.place - length : self.place]

    def value(self, header: Header) -> None:
        """Read one key with its value."""
        key, kind = self.string().decode("utf-8"), self.number("I")
        if key in header.values or key in header.lengths:
            raise _Damaged(f"the key {key!r} stands twice")
        if kind == ARRAY:
            header.lengths[key] = self.array(DEPTH)
        else:
            header.values[key] = self.single(kind)

    def single(self, kind: int) -> Any:
        """Read a value that is no array; text as bytes."""
        if kind == STRING:
            return self.string()
        if kind not in SCALARS:
            raise _Damaged(f"a value of the unknown type {kind}")
        return self.number(SCALARS[kind])

    def array(self, depth: int) -> int:
        """Pass over an array; return its length."""
        kind, count = self.number("I"), self.number("Q")
        if kind not in SCALARS and kind not in (STRING, ARRAY):
            raise _Damaged(f"an array of the unknown type {kind}")
        if kind == ARRAY and depth == 1:
            raise _Damaged(f"more than {DEPTH} arrays inside one another")
        least = {STRING: 8, ARRAY: 12}.get(kind) or struct.calcsize(f"<{SCALARS[kind]}")
        self.fits(count, least, "values in an array")
        self.items += count
        if self.items > ITEMS:
            raise _Damaged(f"its arrays have more than {ITEMS} values")
        if kind in SCALARS:
            self.place += count * least
        for _ in range(count if kind not in SCALARS else 0):
            self.string() if kind == STRING else self.array(depth - 1)
        return int(count)

    def tensor(self, header: Header) -> tuple[int, int, str]:
        """Read one tensor's entry; return (offset, bytes, name)."""
        import gguf as library

        name, dimensions = self.string().decode("utf-8"), self.number("I")
        if name in header.tensors:
            raise _Damaged(f"two tensors are called {name!r}")
        if not 1 <= dimensions <= DIMENSIONS:
            raise _Damaged(f"{name!r} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        sizes = {int(known): size for known, size in library.GGML_QUANT_SIZES.items()}
        if kind not in sizes:
            raise _Damaged(f"{name!r} is of the unknown type {kind}")
        block, size = sizes[kind]
        if 0 in shape or shape[0] % block:
            raise _Damaged(f"{name!r} has the shape {shape}, which its type cannot have")
        header.tensors[name] = shape
        return offset, prod(shape) // block * size, name

    def lay_out(self, entries: list[tuple[int, int, str]], room: int) -> None:
        """Refuse tensors that lie outside the file or over one another."""
        end = 0
        for offset, size, name in sorted(entries):
            if offset < end:
                raise _Damaged(f"{name!r} lies over another tensor")
            end = offset + size
            if end > room:
                raise _Damaged(f"{name!r} is said to lie at bytes {offset} to {end}, of which there are {room}")


def _sizes(header: Header) -> None:
    """Refuse a network that is larger than the tensors it would be filled with."""
    widest = max((max(shape) for shape in header.tensors.values()), default=0)
    architecture = header.values.get("general.architecture", b"")
    prefix = architecture.decode("utf-8") if isinstance(architecture, bytes) else ""
    claims = {name: header.values.get(f"{prefix}.{name}", 0) for name in SIZES}
    claims["tokens"] = header.lengths.get("tokenizer.ggml.tokens", 0)
    for name, value in claims.items():
        most = len(header.tensors) if name == "block_count" else widest
        if not isinstance(value, int) or not 0 <= value <= most:
            raise _Damaged(f"its {name} is {value!r}, which its tensors cannot fill (at most {most})")
