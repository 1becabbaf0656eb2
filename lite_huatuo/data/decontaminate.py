"""Leave out records that share text with evaluation data. What overlap is, and how it is found: see overlap.py.

Questions are compared with questions: of a record, its exam question and its open question, whatever form it has. The
exam question of a problem whose row has the open one only can be given by its id (`add_form`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lite_huatuo import exam_rows, records
from lite_huatuo.data import overlap, texts
from lite_huatuo.errors import RecordError

STEP = "decontaminate"
QUESTIONS = tuple(dict.fromkeys([*records.PROBLEM_QUESTION, *exam_rows.QUESTION]))
ANSWERS = (*records.GROUND_TRUTH, "answer")
EXCERPT = 160  # characters of shared text that a reason quotes


class Screen:
    """Evaluation records to keep clear of. `limits` are those of overlap.Index: everyday, share."""

    def __init__(self, **limits: Any) -> None:
        self._index = overlap.Index(**limits)
        self._names: list[str] = []
        self._answers: list[frozenset[str]] = []
        self._forms: dict[str, str] = {}  # id of a record -> its question in another form

    def __len__(self) -> int:
        return len(self._index)

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Add the questions of an evaluation record; `where` is how hits name it. A row without one is an error."""
        found = questions(row)
        if not found:
            raise RecordError(f"{where}: no question: expected one of the fields {', '.join(QUESTIONS)}")
        for text in found:
            self._index.add(text)
            self._names.append(where)
            self._answers.append(answers(row))

    def add_form(self, row: Mapping[str, Any]) -> None:
        """Remember the exam question that the record of the same id was made from: it is compared as well."""
        for text in questions(row)[:1]:
            self._forms[str(row.get("id"))] = text

    def reason(self, row: Mapping[str, Any]) -> str | None:
        """Return why a record is to be left out ("rule: how much, with what, the text"), None where it is clear."""
        other = self._forms.get(str(row.get("id")), "")
        for text in dict.fromkeys([*questions(row), *filter(None, [other])]):
            hit = self._index.run(text) or self._index.overlap(text) or self._same(text, answers(row))
            if hit:
                what = f"{hit.amount:g} in common with {self._names[hit.number]}"
                return f"{hit.rule}: {what}: {hit.shared[:EXCERPT]}"
        return None

    def sift(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield every ("where", row) as its row and the reason to leave it out, for side_files.sift."""
        for where, row in rows:
            if not questions(row):
                raise RecordError(f"{where}: no question: expected one of the fields {', '.join(QUESTIONS)}")
            yield dict(row), self.reason(row)

    def _same(self, text: str, told: frozenset[str]) -> overlap.Hit | None:
        """Return an equal question, unless the answers say that another thing is asked ("All are true except")."""
        for hit in self._index.same(text):
            if not told or not self._answers[hit.number] or told & self._answers[hit.number]:
                return hit
        return None


def questions(row: Mapping[str, Any]) -> list[str]:
    """Return the different question texts of a record, of any known form; a trajectory's are its problem's."""
    if isinstance(row.get("problem"), Mapping):
        row = {**row["problem"], **row}
    named = [name for name in row if name in QUESTIONS or str(name).lower() in QUESTIONS]
    found = (str(row[name]).strip() for name in named if isinstance(records.given(row, name), str))
    return [text for text in dict.fromkeys(found) if text]


def answers(row: Mapping[str, Any]) -> frozenset[str]:
    """Return a record's answers as words only; none where it tells just letters."""
    told = (str(row[name]) for name in ANSWERS if isinstance(row.get(name), (str, int, float)))
    return frozenset(" ".join(texts.units(answer)) for answer in told if len(answer) > 1)
