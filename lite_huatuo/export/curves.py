"""Training curves as one SVG picture, drawn without a plotting library: a panel for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 300, 180, 46, 26, 24  # of a panel, in pixels; margins inside it
PER_ROW = 2
POINTS = 200  # most points of a curve


def picture(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return an SVG of {metric: [(step, value), …]}; every metric needs a point."""
    rows = -(-len(curves) // PER_ROW)
    size = f'width="{PER_ROW * WIDTH}" height="{rows * HEIGHT}"'
    panels = [
        f'<g transform="translate({i % PER_ROW * WIDTH},{i // PER_ROW * HEIGHT})">{_panel(name, points)}</g>'
        for i, (name, points) in enumerate(curves.items())
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *panels, "</svg>"]) + "\n"


def _panel(name: str, points: Sequence[tuple[float, float]]) -> str:
    if len(points) > POINTS:
        points = [points[round(i * (len(points) - 1) / (POINTS - 1))] for i in range(POINTS)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, top, bottom = LEFT, WIDTH - 12, TOP, HEIGHT - BOTTOM
    line = " ".join(
        f"{_scale(x, xs, left, right):.1f},{_scale(y, ys, bottom, top):.1f}" for x, y in zip(xs, ys, strict=True)
    )
    return (
        f'<text x="{left}" y="16" font-weight="bold">{escape(name)}</text>'
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>'
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end">{max(ys):.3g}</text>'
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">{min(ys):.3g}</text>'
        f'<text x="{left}" y="{bottom + 14}">{min(xs):g}</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{max(xs):g}</text>'
    )


def _scale(value: float, values: Sequence[float], low: float, high: float) -> float:
    """Return where a value stands between two pixels; a flat curve stands in the middle."""
    span = max(values) - min(values)
    return low + (high - low) * ((value - min(values)) / span if span else 0.5)
