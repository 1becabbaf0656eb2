"""What the machine lacks, told in a line: room on the disk, the right to write, memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lite_huatuo.errors import BackendError, CheckpointError, LiteHuatuoError

DISK = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "your share of the disk is used up; make room",
    errno.EFBIG: "the file may not grow so large here; raise the limit (ulimit -f)",
    errno.EROFS: "the disk is read-only; make it writable",
    errno.EACCES: "you may not write here; ask for the right",
    errno.EIO: "the disk failed; look after it",
}
# A place that cannot be written to, whatever room and rights there are.
PLACE = {
    errno.EISDIR: "is a folder, and a file is to be written there; give another name",
    errno.EEXIST: "is a file, and a folder is to be made there; give another name",
    errno.ENOTDIR: "a part of this path is a file; give another folder",
    errno.ENAMETOOLONG: "this name is too long for the disk; give a shorter one",
}
# What libraries that write in Rust or C++ say of the same; they name no file.
WORDS = {"No space left": errno.ENOSPC, "File too large": errno.EFBIG, "file write failed": errno.ENOSPC}
WORDS["PytorchStreamWriter failed"] = errno.ENOSPC
XET = "CAS Client Error"  # what hf_xet says, whatever library has asked it
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def told(go_on: str, *, memory: str) -> Iterator[None]:
    """Turn what the disk or the memory refuses into an error of ours. `go_on` says how, `memory` where to look."""
    try:
        yield
    except LiteHuatuoError:
        raise  # it has said what is wrong
    except MemoryError:
        raise BackendError(f"out of memory; {memory}") from None
    except Exception as error:  # of any library: safetensors' own is a plain Exception
        ours = _ours(error, go_on, memory)
        if ours is None:
            raise
        raise ours from None


def _ours(error: Exception, go_on: str, memory: str) -> Exception | None:
    text = str(error)
    if any(words in text for words in NO_MEMORY):
        return BackendError(f"out of memory ({text.strip().split(chr(10))[0]}); {memory}")
    if isinstance(error, RuntimeError) and XET in text:  # its text may hold a signed address
        return BackendError(
            f"the Hub's Xet store broke off while a file was fetched; {go_on}; if it stays so, HF_HUB_DISABLE_XET=1 "
            "fetches without Xet"
        )
    number = error.errno if isinstance(error, OSError) else None
    number = number or next((each for words, each in WORDS.items() if words in text), None)
    path = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    where = f"{path}: " if path else ""
    if number == errno.ENOENT and isinstance(path, str) and not os.path.isdir(os.path.dirname(path) or "."):
        return CheckpointError(
            f"{where}its folder is not there; give one that is. Where it was, another process deleted or replaced it"
        )
    if number in PLACE and where:
        return CheckpointError(where + PLACE[number])
    if number in DISK:
        return CheckpointError(f"{where}{DISK[number]}, then go on: {go_on}. What was saved before is whole")
    return None
