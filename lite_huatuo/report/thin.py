"""From metric rows to the points of a curve, few enough to draw and honest about it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lite_huatuo.report.reading import Row
from lite_huatuo.report.text import counted, finite


@dataclass(frozen=True)
class Point:
    """One point: `x` the counter, `upto` the last one it stands for, `value` their mean (None: a gap), `low`, `high`
    the least and the greatest of them."""

    x: float
    upto: float
    value: float | None
    low: float | None
    high: float | None

    @property
    def where(self) -> str:
        """The counter's value or values, in words."""
        return counted(self.x) if self.x == self.upto else f"{counted(self.x)} to {counted(self.upto)}"


def bucket_size(count: int, most: int) -> int:
    """Return how many rows in a row make one point, so that there are at most `most` points."""
    return max(1, -(-count // most))


def points(rows: Sequence[Row], counter: str, metric: str, *, most: int, sparse: bool = False) -> list[Point]:
    """Return a metric's points over its counter.

    A row without a finite value is a gap, except in a `sparse` metric, which is not measured in every row: there it is
    no point. Above `most` rows several in a row make one point.
    """
    size = bucket_size(len(rows), most)
    made = []
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        values = [value for row in group if (value := finite(row.get(metric))) is not None]
        if not values and sparse:
            continue
        mean = statistics.fmean(values) if values else None
        edges = (min(values), max(values)) if values else (None, None)
        made.append(Point(group[0][counter], group[-1][counter], mean, *edges))
    while made and made[0].value is None:
        made.pop(0)
    while made and made[-1].value is None:
        made.pop()
    return made
