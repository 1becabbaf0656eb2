"""Reading a run folder into plain data. Whatever is missing is empty, whatever is damaged is told, nothing is raised
but for a folder that is no run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lite_huatuo.errors import CheckpointError
from lite_huatuo.report import samples
from lite_huatuo.report.reading import Row, iter_rows, read_object
from lite_huatuo.report.samples import Samples
from lite_huatuo.report.text import finite
from lite_huatuo.run_dir import STAGES, RunDir

COUNTERS = {"sft": "step", "ppo": "update"}  # what a stage's metrics are drawn over


@dataclass(frozen=True)
class Collected:
    """All that a page tells of a run; `problems` are files that are missing parts, in words."""

    name: str
    recipe: Row
    environment: Row
    events: list[Row]
    metrics: dict[str, list[Row]]  # sft, ppo -> rows, sorted by their counter, one for each of its values
    samples: Samples
    heldout: dict[str, Row]  # base, sft, ppo -> summary
    benchmarks: dict[str, dict[str, Row]]  # base, sft, ppo -> benchmark -> summary
    acceptance: Row
    last_write: float | None  # seconds since 1970
    problems: list[str]


def collect(path: Path, *, most_samples: int) -> Collected:
    """Read a run folder; CheckpointError where it is none."""
    run, problems = RunDir.open(path), []
    try:
        recipe = run.recipe()
    except CheckpointError as error:
        recipe = {}
        problems.append(str(error))
    heldout = read_object(path / "eval" / "report.json", problems, "eval/report.json")
    return Collected(
        name=path.resolve().name,
        recipe=recipe,
        environment=read_object(path / "environment.json", problems, "environment.json"),
        events=list(iter_rows(path / "events.jsonl", problems, "events.jsonl")),
        metrics={stage: _metrics(path, stage, problems) for stage in COUNTERS},
        samples=samples.read(path, most_samples, problems),
        heldout={stage: heldout[stage] for stage in STAGES if isinstance(heldout.get(stage), dict)},
        benchmarks={stage: _benchmarks(path, stage, problems) for stage in STAGES},
        acceptance=read_object(path / "verifier.json", problems, "verifier.json"),
        last_write=_last_write(path),
        problems=problems,
    )


def _metrics(run: Path, stage: str, problems: list[str]) -> list[Row]:
    """Return a stage's rows; lines about the same step or update are one row, the later value counts."""
    counter, found = COUNTERS[stage], dict[float, Row]()
    for row in iter_rows(run / stage / "metrics.jsonl", problems, f"{stage}/metrics.jsonl"):
        at = finite(row.get(counter))
        if at is None:
            problems.append(f"{stage}/metrics.jsonl: a line without {counter} is left out")
        else:
            found.setdefault(at, {}).update(row)
    return [found[at] for at in sorted(found)]


def _benchmarks(run: Path, stage: str, problems: list[str]) -> dict[str, Row]:
    name = f"eval/{stage}/report.json"
    report = read_object(run / name, problems, name)
    return {benchmark: summary for benchmark, summary in report.items() if isinstance(summary, dict)}


def _last_write(run: Path) -> float | None:
    """Return when a file that a run writes was last written."""
    names = ("events.jsonl", "*/metrics.jsonl", "*/samples.jsonl", "*/checkpoints", "eval/*.jsonl", "eval/*/*.jsonl")
    times = []
    for path in (path for name in names for path in run.glob(name)):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # gone since
            continue
    return max(times, default=None)
