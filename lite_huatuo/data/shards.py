"""One job on several machines: which part a record is in, and parts put together as if they had been one run."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lite_huatuo import jsonl
from lite_huatuo.data import side_files
from lite_huatuo.errors import RecordError

Record = TypeVar("Record")


def shard(records: Iterable[Record], part: str | None) -> Iterator[Record]:
    """Yield the records of one part of a job, "i/n" (i from 1), all where it is None. Ids alone decide."""
    if part is None:
        yield from records
        return
    number, count = _read(part)
    yield from (record for record in records if part_of(record.id, count) == number)  # type: ignore[attr-defined]


def part_of(identifier: str, count: int) -> int:
    """Return the part, from 1 to `count`, that an id is in."""
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big") % count + 1


def merge(parts: Sequence[Path], ids: Callable[[], Iterable[str]], to: Path) -> dict[str, int]:
    """Put the outputs of all parts together at `to`, and their side files beside it, in the order of `ids`, those of
    the job's input: the files that one run would have written. Return the rows by side.

    Raise RecordError where a part is missing, or holds a record that the input has not or another part has too.
    """
    written = sides(parts)
    with side_files.opened(to, *written) as files:
        for side in (side_files.OUTPUT, *written):
            _merge_side([side_files.side_path(one, side) for one in parts], ids(), files, side)
    return files.counts


def sides(parts: Sequence[Path]) -> list[str]:
    """Return the side files that any of the parts has."""
    return sorted({side for one in parts for side in _sides(one)})


def _merge_side(parts: list[Path], ids: Iterable[str], files: side_files.Files, side: str) -> None:
    """Merge one file of each part: every part is in the order of the input already."""
    streams = [jsonl.iter_rows(one) for one in parts]
    heads = [next(stream, None) for stream in streams]
    for wanted in ids:
        from_one = None
        for place, stream in enumerate(streams):
            while (head := heads[place]) is not None and head[1].get("id") == wanted:
                if from_one not in (None, place):
                    raise RecordError(f"{head[0]}: {wanted!r} is in another part too; give each part once")
                from_one = place
                files.write(side, head[1])
                heads[place] = next(stream, None)
    left: list[tuple[str, dict[str, Any]]] = [head for head in heads if head is not None]
    if left:
        where, row = left[0]
        raise RecordError(f"{where}: {row.get('id')!r} is not where the input has it; give the job's own input")


def _sides(output: Path) -> list[str]:
    """Return the side files that stand beside an output."""
    if not output.is_file():
        raise RecordError(f"{output}: no such file; every part must be finished")
    return [path.name[len(output.stem) + 1 : -6] for path in output.parent.glob(f"{glob.escape(output.stem)}.*.jsonl")]


def _read(part: str) -> tuple[int, int]:
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise RecordError(f"--shard {part}: write it i/n, such as 1/4, with i from 1 to n")
    return int(number), int(count)
