"""An output file and its side files, written row by row and put in place together.

Beside `X.jsonl` stand `X.dropped.jsonl` ({id, step, reason, record}), `X.failed.jsonl` ({id, step, reason}) and, after
an import, `X.refused.jsonl` ({where, reason, row}). A reason reads "kind" or "kind: detail"; kinds are counted.
Here is also what all commands ask before they write (`free`), and how the files of a folder take their places together.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from lite_huatuo import jsonl, manifest
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


def free(
    outputs: Iterable[Path], *, sources: Iterable[str | Path], overwrite: bool, own: Collection[Path] = ()
) -> None:
    """Raise RecordError where a command would write over one of its sources, or unasked over anything else.

    `outputs` are all files that it writes, side files too; `own` those that it had put in place when it was killed.
    """
    taken = [output for output in outputs if output.exists()]
    given = [path for path in (Path(os.path.expanduser(source)) for source in sources) if path.exists()]
    for output in taken:
        if any(output.samefile(path) for path in given):
            raise RecordError(f"{output}: is the input, and would be lost; give the output another name")
    for output in taken:
        if not overwrite and output not in own:
            raise RecordError(f"{output}: already exists; give another name, or --overwrite to make it again")


def new(path: Path) -> Path:
    """Return the name under which a file is written that `place` puts in place."""
    return path.with_name(f".{path.name}.new")


def place(folder: Path, names: Sequence[str]) -> None:
    """Put the files of a folder in place that were written under their `new` names; the others, of an earlier time, are
    removed. The last one tells the hashes of the others: where it is, they are whole and belong together."""
    (folder / names[-1]).unlink(missing_ok=True)
    for path in (folder / name for name in names):
        if new(path).exists():
            os.replace(new(path), path)
        else:
            path.unlink(missing_ok=True)


def placed(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files that `place` had put in place when it was killed: the last one, not in place, has their hash."""
    try:
        told = new(folder / names[-1]).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    return [path for name in names if (path := folder / name).is_file() and manifest.digest(path) in told]


def kind(reason: str) -> str:
    """Return what a reason is counted by: its part before the first colon."""
    return reason.split(":", 1)[0].strip()
