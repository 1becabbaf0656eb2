"""What can happen to a file behind our back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Turn one bit over, in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0b100
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def add(path: Path) -> None:
    path.with_name("pytorch_model.bin").write_bytes(b"from elsewhere")


def forget(path: Path) -> None:
    """Take away the manifest of the folder that the file is sealed in."""
    next(parent for parent in path.parents if (parent / "manifest.json").exists()).joinpath("manifest.json").unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut, "flipped": flip, "removed": remove, "empty": empty, "added": add, "unsealed": forget,
}  # fmt: skip
