"""Reading the files of a run that may be in the middle of a write, or may have died in one: what cannot be read is
told in `problems` and left out, never raised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def iter_rows(path: Path, problems: list[str], name: str) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file; of one that is not there none. `name` is what `problems` call it."""
    try:
        with path.open("rb") as file:
            for count, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = _object(line)
                if row is not None:
                    yield row
                elif line.endswith(b"\n"):
                    problems.append(f"{name}: line {count} cannot be read and is left out")
                else:
                    problems.append(f"{name}: the last line is torn, as by a crash in the middle of a write; left out")
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror})")


def read_object(path: Path, problems: list[str], name: str) -> Row:
    """Return the object in a JSON file, {} where there is none."""
    try:
        found = _object(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror})")
        return {}
    if found is None:
        problems.append(f"{name}: is damaged and left out")
    return found or {}


def _object(text: bytes) -> Row | None:
    """Return the JSON object in a text, None where there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    return found if isinstance(found, dict) else None
