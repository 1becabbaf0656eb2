"""Folders that can tell whether they are as they were written: a manifest with the size and SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lite_huatuo import jsonl

NAME = "manifest.json"


def seal(folder: Path) -> None:
    """Write the manifest of a folder, last: a folder that has one was written to its end."""
    files = {str(path.relative_to(folder)): _facts(path) for path in _files(folder)}
    jsonl.write_text(folder / NAME, json.dumps(files, indent=1, sort_keys=True) + "\n")


def damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, in words, or None: files that are missing, cut, changed, or added."""
    try:
        wanted = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = {name: (size, known) for name, (size, known) in wanted.items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{NAME} is damaged"
    there = {str(path.relative_to(folder)) for path in _files(folder)}
    if lacking := sorted(set(files) - there):
        return f"{lacking[0]} is missing"
    if added := sorted(there - set(files)):
        return f"{added[0]} does not belong to it"
    for name, (size, known) in files.items():
        path = folder / name
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if digest(path) != known:
            return f"{name} was changed"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)


def _facts(path: Path) -> tuple[int, str]:
    return path.stat().st_size, digest(path)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):  # hashlib.file_digest is Python 3.11's
            found.update(piece)
    return found.hexdigest()
