"""The curves of the page, as Vega-Lite specifications with their data inside; the page adds colours and sizes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lite_huatuo.report.collect import COUNTERS
from lite_huatuo.report.reading import Row
from lite_huatuo.report.text import NOTHING, number
from lite_huatuo.report.thin import Point, bucket_size, points
from lite_huatuo.training.metrics import METRICS

MOST, MOST_BARS = 240, 60  # points of a curve, bars
DOTTED = 40  # a curve of so few points shows them
FEW = 8  # so few steps or updates are all named below the curve
SPARSE = ("heldout/", "sft/")  # metrics that are not in every row of their file

Spec = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One drawing: a title and {metric: its name in the legend}. `kind` is line or bar (stacked)."""

    title: str
    metrics: Mapping[str, str]
    kind: str = "line"
    from_zero: bool = False
    warned: bool = False  # mark the updates at which the watch warned

    @property
    def stage(self) -> str:
        """The stage whose metrics these are."""
        return "sft" if next(iter(self.metrics)).startswith("sft/") else "ppo"


PANELS = {
    "Fine-tuning (SFT)": (
        Panel("Loss", {"sft/loss": "training", "sft/eval_loss": "evaluation"}),
        Panel("Token accuracy", {"sft/token_accuracy": "token accuracy"}),
        Panel("Entropy", {"sft/entropy": "entropy, nats"}),
        Panel("Gradient norm", {"sft/gradient_norm": "gradient norm"}, from_zero=True),
        Panel("Learning rate", {"sft/learning_rate": "learning rate"}, from_zero=True),
    ),
    "Reinforcement learning (PPO)": (
        Panel(
            "Score", {"score/mean": "episodes", "heldout/score": "held out for selection"}, from_zero=True, warned=True
        ),
        Panel(
            "Shares of episodes",
            {"score/right_share": "right", "score/form_share": "well-formed", "score/stopped_share": "stopped in time"},
            from_zero=True,
        ),
        Panel("KL to the SFT policy", {"reference/kl_per_token": "nats per token"}),
        Panel("Reply length", {"reply/length_mean": "mean tokens", "reply/length_max": "longest"}, from_zero=True),
        Panel("Entropy", {"policy/entropy": "nats per token"}),
        Panel("Values and rewards", {"value/mean": "mean value", "reward/mean": "mean reward"}),
        Panel("Value loss", {"value/loss": "value loss"}, from_zero=True),
        Panel("Explained variance", {"value/explained_variance": "explained variance"}),
        Panel("Policy step", {"policy/approx_kl": "KL to the old policy", "policy/clip_share": "share clipped"}),
        Panel("Gradient norms", {"policy/gradient_norm": "actor", "value/gradient_norm": "critic"}, from_zero=True),
        Panel("Learning rate", {"policy/learning_rate": "actor"}, from_zero=True),
    ),
    "The watch": (
        Panel("Gap between the verifiers", {"watch/gap": "gap", "watch/second_right_share": "right by the second"}),
        Panel(
            "Signs",
            {
                "watch/repetition": "repetition",
                "watch/no_form_share": "without the form",
                "watch/answer_list_share": "answer lists",
            },
            from_zero=True,
            warned=True,
        ),
        Panel("Length against the first updates", {"watch/length_ratio": "ratio"}),
    ),
    "What it cost": (
        Panel(
            "Seconds of an update, by phase",
            {
                "time/rollout_seconds": "rollout",
                "time/scoring_seconds": "scoring",
                "time/learning_seconds": "learning",
            },
            kind="bar",
        ),
        Panel(
            "Most memory in use, MiB",
            {"memory/rollout_mib": "rollout", "memory/scoring_mib": "scoring", "memory/learning_mib": "learning"},
            from_zero=True,
        ),
        Panel("Speed", {"time/tokens_per_second": "reply tokens per second"}, from_zero=True),
    ),
}


def drawn(metrics: Mapping[str, Sequence[Row]], warned: Sequence[float] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return {heading: [{id, title, caption, note, spec}]}, without panels for which nothing was measured."""
    found: dict[str, list[dict[str, Any]]] = {}
    for heading, panels in PANELS.items():
        for panel in panels:
            figure = draw(panel, metrics[panel.stage], warned)
            if figure is not None:
                figure["id"] = f"figure-{sum(map(len, found.values())) + 1}"
                found.setdefault(heading, []).append(figure)
    return found


def draw(panel: Panel, rows: Sequence[Row], warned: Sequence[float] = ()) -> dict[str, Any] | None:
    """Return a panel's title, caption (what it means), summary (first and last values), note and specification; None
    where nothing was measured."""
    counter, most = COUNTERS[panel.stage], MOST_BARS if panel.kind == "bar" else MOST
    rows = [row for row in rows if any(name in row for name in panel.metrics)]
    curves = {
        label: made
        for name, label in panel.metrics.items()
        if (made := points(rows, counter, name, most=most, sparse=name.startswith(SPARSE)))
    }
    if not curves:
        return None
    size = bucket_size(len(rows), most)
    note = f"Means of {size} {counter}s" + ("; band: their least to their greatest" if panel.kind == "line" else "")
    return {
        "title": panel.title,
        "caption": [(label, METRICS[name]) for name, label in panel.metrics.items() if label in curves],
        "summary": [_summary(label, made) for label, made in curves.items()],
        "note": "" if size == 1 else f"{note}.",
        "spec": _spec(panel, curves, counter, warned if panel.warned else ()),
    }


def _summary(label: str, made: Sequence[Point]) -> str:
    first, last = made[0], made[-1]
    if first is last:
        return f"{label} {number(last.value)}"
    return f"{label} {number(first.value)} → {number(last.value)}"


def _spec(panel: Panel, curves: Mapping[str, Sequence[Point]], counter: str, warned: Sequence[float]) -> Spec:
    """Return the specification: bands, lines, points, marks of warnings, and what hovering shows."""
    labels = list(curves)
    values = [_datum(label, point, dots=len(made) <= DOTTED) for label, made in curves.items() for point in made]
    bars = panel.kind == "bar"
    x = {"field": "x", "type": "ordinal" if bars else "quantitative", "title": counter, "axis": _x_axis(curves)}
    if not bars:
        x["scale"] = {"zero": False, "nice": False}
    legend = {"title": None, "orient": "top", "direction": "horizontal"} if len(labels) > 1 else None
    color = {"field": "s", "type": "nominal", "scale": {"domain": labels}, "legend": legend}
    y = {
        "field": "v",
        "type": "quantitative",
        "title": None,
        "scale": {"zero": panel.from_zero or bars},
        "axis": {"labelExpr": "format(datum.value, ',~g')", "tickCount": 5},
    }
    layers = [{"mark": {"type": "bar"}, "encoding": {"x": x, "y": y, "color": color}}]
    if not bars:
        layers = _lines(values, x, y, color)
        layers += [
            {"data": {"values": [{"x": at} for at in warned]}, "mark": {"type": "rule", "style": "warned"},
             "encoding": {"x": x}}
        ] if warned else []  # fmt: skip
    return {"data": {"values": values}, "layer": [*layers, *_hover(curves, counter, x, bars=bars)]}


def _datum(label: str, point: Point, *, dots: bool) -> Spec:
    datum: Spec = {"x": point.x, "s": label, "v": _short(point.value)}
    if point.x != point.upto:
        datum |= {"low": _short(point.low), "high": _short(point.high)}
    return datum | ({"dot": 1} if dots else {})


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _x_axis(curves: Mapping[str, Sequence[Point]]) -> Spec:
    """Return the axis of steps or updates: whole numbers only, each of them where there are few."""
    places = sorted({point.x for made in curves.values() for point in made})
    few = {"values": places} if len(places) <= FEW else {}
    return {"labelAngle": 0, "labelOverlap": True, "grid": False, "tickMinStep": 1, **few}


def _lines(values: Sequence[Spec], x: Spec, y: Spec, color: Spec) -> list[Spec]:
    layers: list[Spec] = []
    if any("low" in datum for datum in values):
        edges = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
        layers.append({"mark": {"type": "area", "style": "band"}, "encoding": {"x": x, "color": color, **edges}})
    shared = {"x": x, "y": y, "color": color}
    layers.append({"mark": {"type": "line", "strokeWidth": 2}, "encoding": shared})
    if any("dot" in datum for datum in values):
        dots = [{"filter": "datum.dot"}, {"filter": "isValid(datum.v)"}]
        layers.append({"transform": dots, "mark": {"type": "point", "filled": True, "size": 28}, "encoding": shared})
    return layers


def _hover(curves: Mapping[str, Sequence[Point]], counter: str, x: Spec, *, bars: bool) -> list[Spec]:
    """Return the layers that show every curve's value at the place of the pointer, as text made here: a column for
    each place, which sees the pointer, and a rule in the one it is in."""
    places: dict[float, Spec] = {}
    for label, made in curves.items():
        for point in made:
            places.setdefault(point.x, {"x": point.x, "at": point.where})[label] = number(point.value, 4)
    empty, order = dict.fromkeys(curves, NOTHING), sorted(places)
    values = [{**empty, **places[at], **edges} for at, edges in zip(order, _columns(order), strict=True)]
    x1, x2 = ({"field": edge, "type": "quantitative"} for edge in ("from", "to"))
    chosen = {"param": "hover", "empty": False}
    column = {
        "data": {"values": values},
        "params": [
            {
                "name": "hover",
                "select": {"type": "point", "fields": ["x"], "on": "pointermove", "clear": "pointerout"},
            }
        ],
        "mark": {"type": "rect", "style": "hover"},
        "encoding": {
            **({"x": x} if bars else {"x": {**x, **x1}, "x2": x2}),
            "opacity": {"condition": {**chosen, "value": 0.12}, "value": 0} if bars else {"value": 0},
            "tooltip": [
                {"field": "at", "type": "nominal", "title": counter},
                *({"field": label, "type": "nominal", "title": label} for label in curves),
            ],
        },
    }
    rule = {
        "data": {"values": [{"x": at} for at in order]},
        "mark": {"type": "rule", "style": "hover"},
        "encoding": {"x": x, "opacity": {"condition": {**chosen, "value": 1}, "value": 0}},
    }
    return [column] if bars else [rule, column]


def _columns(order: Sequence[float]) -> list[dict[str, float]]:
    """Return the edges of each place's column: half-way to its neighbours; one that has none is 1 wide."""
    if len(order) == 1:
        return [{"from": order[0] - 0.5, "to": order[0] + 0.5}]
    middles = [(before + after) / 2 for before, after in itertools.pairwise(order)]
    return [{"from": low, "to": high} for low, high in itertools.pairwise([order[0], *middles, order[-1]])]
