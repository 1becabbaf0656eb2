"""The page: a run's data put into the template, with the library and the styles inside and nothing to load."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

from lite_huatuo import __version__, jsonl
from lite_huatuo.errors import CheckpointError
from lite_huatuo.report import bundle, curves, samples, state, tables
from lite_huatuo.report.collect import Collected, collect
from lite_huatuo.report.state import State
from lite_huatuo.report.text import NOTHING, clean, dig, duration, finite, memory, number

MOST_SAMPLES = 200
_JSON_IN_HTML = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write(run: Path, to: Path, *, most_samples: int = MOST_SAMPLES) -> int:
    """Write the page of a run folder, whole or not at all; return its size in bytes.

    CheckpointError where there is no run, or the page cannot be written.
    """
    text = render(collect(run, most_samples=most_samples), now=time.time())
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        jsonl.write_text(to, text)
    except OSError as error:
        raise CheckpointError(f"{to}: cannot be written ({error.strerror}); choose another file with --to") from None
    return to.stat().st_size


def render(run: Collected, *, now: float) -> str:
    """Return the page; `now` is the time it is made at, seconds since 1970."""
    from jinja2 import Environment, StrictUndefined

    found = state.read(run.recipe, run.events, run.metrics, last_write=run.last_write, now=now)
    figures = curves.drawn(run.metrics, tables.warned(run.events))
    scripts = [bundle.javascript().replace("</script", "<\\/script"), _part("page.js")]
    columns, benchmarks = tables.benchmarks(run.benchmarks)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html.j2")).render(
        name=clean(run.name),
        title=clean(run.recipe.get("name") or run.name),
        version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(now)),
        policy=policy(scripts),
        style=_part("page.css"),
        scripts=scripts,
        state=found,
        problems=[clean(problem) for problem in run.problems],
        subtitle=_subtitle(run),
        tiles=_tiles(run, found),
        heldout=tables.heldout(run.heldout),
        columns=columns,
        benchmarks=benchmarks,
        figures=figures,
        samples=run.samples,
        origins=samples.origins(run.samples.shown),
        verdicts=samples.VERDICTS,
        phases=tables.phases(run.metrics["ppo"]),
        stages=tables.stages(run.events),
        warnings=tables.warnings(run.events),
        events=tables.others(run.events),
        verifier=tables.verifier(run.acceptance),
        recipe=tables.sections(run.recipe),
        environment=tables.flat(run.environment),
        metrics=tables.metrics(run.metrics),
        data=script_data({"samples": run.samples.shown, "figures": _specs(figures)}),
        licences=bundle.LICENCES,
    )


def policy(scripts: list[str]) -> str:
    """Return the page's content security policy: these scripts by their hashes, styles and nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def script_data(data: Any) -> str:
    """Return JSON that stands safely inside a <script> element: nothing in it can end the element or begin another."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_JSON_IN_HTML)


def _part(name: str) -> str:
    """Return one of the files beside this one."""
    return resources.files("lite_huatuo.report").joinpath(name).read_text(encoding="utf-8")


def _specs(figures: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {figure["id"]: figure["spec"] for group in figures.values() for figure in group}


def _subtitle(run: Collected) -> str:
    """Return what was trained and how, in a line."""
    base, rank, kind = (dig(run.recipe, key) for key in ("base.model", "adapter.rank", "verifier.kind"))
    if not base:
        return ""
    model = clean(base).rstrip("/").rpartition("/")[2]
    quantization = dig(run.recipe, "base.quantization")
    parts = [model, *([f"LoRA rank {clean(rank)}"] if rank else []), *([clean(quantization)] if quantization else [])]
    return ", ".join([*parts, *([f"verifier {clean(kind)}"] if kind else [])])


def _tiles(run: Collected, found: State) -> list[tuple[str, str, str]]:
    """Return (what, value, how it came about) of the numbers that matter; what is not known is left out."""
    ppo, tiles = run.metrics["ppo"], []
    rows = tables.heldout(run.heldout)
    if rows:
        before = ", ".join(f"{row['name']} {row['percent']}" for row in rows[:-1])
        tiles.append((f"Held-out, verified right ({rows[-1]['name']})", rows[-1]["percent"], before))
    for what, metric in (
        ("Mean score", "score/mean"),
        ("KL to SFT, nats per token", "reference/kl_per_token"),
        ("Reply length, tokens", "reply/length_mean"),
    ):
        values = [value for row in ppo if (value := finite(row.get(metric))) is not None]
        if values:
            how = f"last update; the first had {number(values[0])}" if len(values) > 1 else "one update"
            tiles.append((what, number(values[-1]), how))
    losses = [value for row in run.metrics["sft"] if (value := finite(row.get("sft/loss"))) is not None]
    if losses:
        tiles.append(("SFT loss, nats per token", number(losses[-1]), f"began at {number(losses[0])}"))
    spent = {row["name"]: row["spent"] for row in tables.stages(run.events) if row["spent"] != NOTHING}
    if spent:
        total = tables.seconds(run.events)
        tiles.append(("Time", duration(total), ", ".join(f"{stage} {time}" for stage, time in spent.items())))
    peak = tables.peak(ppo)
    if peak is not None:
        tiles.append(("Most memory in PPO", memory(peak), clean(_device(run))))
    return tiles


def _device(run: Collected) -> str:
    devices = [event["device"] for event in run.events if event.get("device")]
    return f"on {devices[-1]}" if devices else ""
