"""JSON Lines on disk: read with line numbers, append durably, rewrite atomically.

Lines end at "\\n" only: U+2028 and its kin occur inside real records, where `str.splitlines` would cut them.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lite_huatuo import nearest
from lite_huatuo.errors import RecordError


def iter_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object) for every non-empty line of a JSON Lines file."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            text = _decoded(line, where)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise RecordError(f"{where}: not valid JSON ({reason(error)}); fix or remove this line") from None
            if not isinstance(row, dict):
                hint = "; name the file .json if it holds one array" if isinstance(row, list) else ""
                raise RecordError(f"{where}: expected a JSON object, found {type(row).__name__}{hint}")
            yield where, row


def read_text(path: Path) -> str:
    """Return a file's text; RecordError where it cannot be read or is no UTF-8."""
    with _open(path) as file:
        return _decoded(file.read(), str(path))


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and flush them to the disk before returning. A torn last line of an earlier kill is cut off first."""
    drop_torn_tail(path)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_torn_tail(path: Path) -> None:
    """Cut a last line that has no line end: a write that was killed half-way."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite the file with the rows that `wanted` accepts; a missing file stays missing."""
    if path.exists():
        drop_torn_tail(path)
        write(path, [row for _, row in iter_rows(path) if wanted(row)])


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the whole file atomically."""
    write_text(path, "".join(dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write text to a temporary name in the same folder, flush it, rename it over `path`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def dumps(row: dict[str, Any]) -> str:
    """Return the one-line JSON of a row, non-ASCII text readable."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def sealed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with a checksum of its other fields, in `check`."""
    return {**row, "check": _checksum(row)}


def iter_sealed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield as `iter_rows` does rows that were `sealed`; RecordError where one is not as it was written."""
    for where, row in iter_rows(path):
        if row.get("check") != _checksum(row):
            raise RecordError(
                f"{where}: changed since it was written; remove this line, and what it told is made again"
            )
        yield where, row


def _checksum(row: dict[str, Any]) -> str:
    text = json.dumps({name: value for name, value in row.items() if name != "check"}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def _open(path: Path) -> BinaryIO:
    """Open for reading, with the outside's mistakes told."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file{nearest.file_hint(path)}") from None
    except IsADirectoryError:
        raise RecordError(f"{path}: is a folder; name the file in it") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def _decoded(data: bytes, where: str) -> str:
    """Return bytes as text, without the mark that some editors put at the beginning of a file."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not UTF-8 text ({error.reason}); convert it first") from None


def reason(error: Exception) -> str:
    """Return why a text is no JSON, in a few words."""
    return "objects and arrays too deep inside one another" if isinstance(error, RecursionError) else str(error)
