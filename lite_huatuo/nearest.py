"""What somebody may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def hint(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the known name that is nearest, "" where none is near."""
    near = _nearest(word, known)
    return "" if near is None else f" (did you mean {near}?)"


def file_hint(path: Path) -> str:
    """Return the hint for a path that does not exist: its nearest neighbour, else from where a relative one counts."""
    try:
        neighbours = [neighbour.name for neighbour in path.parent.iterdir() if not neighbour.name.startswith(".")]
    except (OSError, ValueError):  # ValueError: a null character
        neighbours = []
    stems = {Path(name).stem: name for name in neighbours}  # endings are too much alike
    near = stems.get(path.stem) or stems.get(_nearest(path.stem, stems) or "")
    if near is not None:
        return f" (did you mean {path.parent / near}?)"
    return "" if path.is_absolute() else f" in {Path.cwd()}"


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, [name for name in known if name != word], n=1)), None)
