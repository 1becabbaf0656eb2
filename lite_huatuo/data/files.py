"""Rows out of a file by its name's ending: .jsonl, .json or .csv. Files of a data set on the Hub are read so too."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.data import containers
from lite_huatuo.errors import RecordError

ENDINGS = (".jsonl", ".json", ".csv")


def rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("where", row) for every row of a file; RecordError where it is not what its name says."""
    if path.name.endswith(".jsonl"):
        yield from jsonl.iter_rows(path)
    elif path.name.endswith(".json"):
        yield from containers.rows(path)
    else:
        yield from _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("file:line", row) of a table whose first line names the columns; `line` is the row's last one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise RecordError(f"{where}: the row has more or fewer cells than the first line; mend it")
                yield where, row
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text ({error.reason}); convert it first") from None
    except csv.Error as error:
        raise RecordError(f"{path}: not a table of comma-separated values ({error})") from None
