"""From a source of exam questions to `exam.jsonl`: one row at a time, ids unique, every refused row kept beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lite_huatuo.data import side_files, sources
from lite_huatuo.errors import RecordError
from lite_huatuo.records import ExamQuestion, to_row

STEP = "import"


def import_exams(
    source: str,
    to: Path,
    *,
    only: Iterable[str] = (),
    name: str = "",
    language: str = "",
    cop_base: int | None = None,
    limit: int | None = None,
) -> dict[str, int]:
    """Read a source, write what can be used to `to` and what is refused to its `.refused.jsonl`, return the counts.

    `only` keeps rows of the source by their own fields ("category!=health,biology"), before they are read. `name` and
    `language` stand in for the row's own; `cop_base` is for MedMCQA rows (see sources.cop_base); `limit` stops after
    that many kept rows. Counts: rows, left_out (by `only`), kept, refused.
    """
    wanted = [condition(text) for text in only]
    seen: dict[str, tuple[bytes, str]] = {}  # id -> (digest of the content, where)
    counts = {"rows": 0, "left_out": 0}
    with side_files.opened(to, side_files.REFUSED) as files:
        for where, row, exam in sources.iter_exams(source, base=cop_base):
            if limit is not None and files.counts[side_files.OUTPUT] >= limit:
                break
            counts["rows"] += 1
            if not all(keep(row) for keep in wanted):
                counts["left_out"] += 1
                continue
            reason = (
                str(exam).removeprefix(f"{where}: ") if isinstance(exam, RecordError) else _repeat(exam, where, seen)
            )
            if reason is None:
                exam = replace(exam, source=name or exam.source, language=language or exam.language)
                files.write(side_files.OUTPUT, to_row(exam))
            else:
                files.write(side_files.REFUSED, {"where": where, "reason": reason, "row": _plain(row)})
    if not counts["rows"]:
        raise RecordError(f"{source}: holds no rows")
    return {**counts, "kept": files.counts[side_files.OUTPUT], "refused": files.counts[side_files.REFUSED]}


def condition(text: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a test of a row's own field: "field=a,b" (it is one of these) or "field!=a,b" (it is none of these)."""
    field, equals, values = text.partition("=")
    field, negated = field.removesuffix("!").strip(), field.endswith("!")
    if not equals or not field:
        raise RecordError(f"{text}: expected field=value,value or field!=value,value, such as category!=health,biology")
    wanted = {value.strip() for value in values.split(",")}

    def keep(row: Mapping[str, Any]) -> bool:
        if field not in row:
            raise RecordError(f"{text}: the rows have no field {field}; they have {', '.join(map(str, row))}")
        return (str(row[field]).strip() in wanted) != negated

    return keep


def _repeat(exam: ExamQuestion, where: str, seen: dict[str, tuple[bytes, str]]) -> str | None:
    """Remember a question's id; return the reason to refuse a row whose id came before, None where it is new."""
    content = sha256("\0".join([exam.question, *exam.options.values(), exam.answer_idx]).encode()).digest()[:8]
    before, place = seen.setdefault(exam.id, (content, where))
    if place == where:
        return None
    return f"repeated row: it is that of {place}" if before == content else f"id used twice: {exam.id}, see {place}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a refused row as JSON can hold it: pictures and other objects by their type's name, broken text mended."""
    return {str(key): _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(part) for part in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    return value if isinstance(value, float) and value - value == 0 else f"<{type(value).__name__}>"
