"""An output file and its side files, written row by row and put in place together.

Beside `X.jsonl` stand `X.dropped.jsonl` ({id, step, reason, record}), `X.failed.jsonl` ({id, step, reason}) and, after
an import, `X.refused.jsonl` ({where, reason, row}). A reason reads "kind" or "kind: detail"; kinds are counted.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError

OUTPUT = ""  # the side name of the output itself
DROPPED, FAILED, REFUSED = "dropped", "failed", "refused"


class Files:
    """Open files of one step; `write` adds a row to the output or to a side file and counts it."""

    def __init__(self, files: dict[str, TextIO]) -> None:
        self.counts = dict.fromkeys(files, 0)
        self._files = files

    def write(self, side: str, row: dict[str, Any]) -> None:
        """Add one row to a file named when it was opened."""
        self._files[side].write(jsonl.dumps(row) + "\n")
        self.counts[side] += 1

    def drop(self, step: str, reason: str, record: dict[str, Any]) -> None:
        """Keep a dropped record with the step that dropped it and the reason."""
        self.write(DROPPED, {"id": record.get("id"), "step": step, "reason": reason, "record": record})


@contextlib.contextmanager
def opened(path: Path, *sides: str) -> Iterator[Files]:
    """Open an output and its side files for a step; they take their places when the block ends without an error.

    Rows go to temporary files in the same folder, so memory does not grow with their number. The output is put in place
    last: where it is, its side files are whole. Raise RecordError where the folder cannot be written.
    """
    paths = {side: side_path(path, side) for side in (*sides, OUTPUT)}
    temporary = {side: target.with_name(f".{target.name}.tmp") for side, target in paths.items()}
    with contextlib.ExitStack() as stack:
        for name in temporary.values():
            stack.callback(name.unlink, missing_ok=True)
        files: dict[str, TextIO] = {}
        for side, name in temporary.items():
            try:
                files[side] = stack.enter_context(name.open("w", encoding="utf-8", newline="\n"))
            except OSError as error:
                raise RecordError(
                    f"{paths[side]}: cannot be written ({error.strerror}); choose another folder"
                ) from None
        yield Files(files)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        for side, name in temporary.items():
            os.replace(name, paths[side])


def sift(step: str, to: Path, rows: Iterable[tuple[dict[str, Any], str | None]]) -> dict[str, Any]:
    """Write rows that have no reason to be left out to `to`, the others to its `.dropped.jsonl`.

    Returns {rows, kept, dropped, reasons: {kind: rows}}.
    """
    kinds: Counter[str] = Counter()
    with opened(to, DROPPED) as files:
        for row, reason in rows:
            if reason is None:
                files.write(OUTPUT, row)
            else:
                kinds[kind(reason)] += 1
                files.drop(step, reason, row)
    kept, dropped = files.counts[OUTPUT], files.counts[DROPPED]
    return {"rows": kept + dropped, "kept": kept, "dropped": dropped, "reasons": dict(kinds.most_common())}


def side_path(path: Path, side: str) -> Path:
    """Return where a side file of an output stands: X.jsonl and "dropped" give X.dropped.jsonl."""
    if path.suffix != ".jsonl":
        raise RecordError(f"{path}: an output's name ends in .jsonl")
    return path.with_name(f"{path.stem}.{side}.jsonl") if side else path


def kind(reason: str) -> str:
    """Return what a reason is counted by: its part before the first colon."""
    return reason.split(":", 1)[0].strip()
