"""One process at a time in a folder. The system frees the lock of a process that ends, however it ends.

The lock stands beside the folder, which may be deleted and made again while it is held.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.errors import CheckpointError


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder while the block runs; `work` says what for. CheckpointError names who holds it else."""
    folder = folder.absolute()
    owner = _owner(folder)
    lock = _taken(folder)
    try:
        facts = {"pid": os.getpid(), "host": platform.node(), "work": work, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        jsonl.write_text(owner, json.dumps(facts) + "\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def refuse_if_held_below(folder: Path) -> None:
    """Raise CheckpointError where a process holds a folder somewhere below: before the whole is deleted.

    One that only reads there, as `chat` does, holds nothing and is not seen.
    """
    for path in folder.absolute().rglob(".*.lock"):
        _taken(path.with_name(path.name[1:].removesuffix(".lock"))).release()


def _taken(folder: Path) -> Any:
    """Return the lock of a folder, acquired; CheckpointError where somebody else has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(f"{folder}: in use by {_told(_owner(folder))}; wait for it, or stop it first") from None
    except (OSError, NotImplementedError) as error:  # the second: filelock's word for a disk without locks
        raise CheckpointError(f"{folder}: cannot be written ({error}); choose another folder") from None
    return lock


def _owner(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.owner.json")


def _told(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"{owner['work']}, process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
