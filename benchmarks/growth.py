"""How the time and the memory of one PPO update grow with the tokens, the batch, the rank of LoRA and the model.

    python benchmarks/growth.py [--updates 3] [--axes tokens batch rank layers] [--png growth.png] [--json FILE]

From one base point (16 episodes, replies of 64 tokens, rank 16, a random Llama with hidden 256 and 4 layers, float32)
one thing at a time is made smaller and larger. Queries have 32 to 64 tokens throughout. Every point is a process of its
own that runs updates as `ours` does in benchmarks/ppo_update.py; the points of one axis take turns, update by update,
after one to warm up. Told are processor seconds (median) and the peak of resident memory after loading less that after
the imports; microbatches of 256 tokens keep it from growing much with the tokens and the batch. On each axis a straight
line is fitted to both (least squares). R² says how much of the spread the line explains: little where there is next to
nothing to explain, as with memory that hardly grows. "at twice the base" is the line there over the line at the base
point: 2 is growth in proportion, less is growth beside a fixed part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "contenders"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ppo_update
import protocol
import transformers
import workload

BASE = {"reply": 64, "episodes": 16, "rank": 16, "layers": 4, "hidden": 256}
AXES: dict[str, tuple[str, str, list[int]]] = {  # name: what of the workload, label of the plot, values
    "tokens": ("reply", "tokens of each reply", [32, 64, 128, 256]),
    "batch": ("episodes", "episodes of an update", [4, 8, 16, 32]),
    "rank": ("rank", "rank of LoRA", [4, 16, 64]),
    "layers": ("layers", "layers of the model", [2, 4, 8]),
}
FIGURES = {"seconds": "CPU seconds per update", "MiB": "peak MiB above imports"}


def fit(x: list[int], y: list[float], base: int) -> dict[str, float]:
    """Fit y = slope · x + start by least squares; return the line, its R², and what it says at twice the base."""
    slope, start = statistics.linear_regression(x, y)
    mean = statistics.fmean(y)
    left = sum((b - slope * a - start) ** 2 for a, b in zip(x, y, strict=True))
    spread = sum((b - mean) ** 2 for b in y)
    return {
        "slope": slope,
        "start": start,
        "r2": 1 - left / spread if spread else 1.0,
        "at twice the base": (slope * 2 * base + start) / (slope * base + start),
    }


def measure(axis: str, work: Path, updates: int, seed: int, quantization: str) -> dict[int, dict[str, Any]]:
    """Run every point of one axis by turns; return medians by value."""
    key, _, values = AXES[axis]
    running: dict[int, ppo_update.Process] = {}
    reports: dict[int, list[dict[str, Any]]] = {value: [] for value in values}
    try:
        for value in values:
            folder = work / f"{axis}-{value}"
            folder.mkdir()
            workload.write(folder, updates=updates + 1, seed=seed, threads=1, **{**BASE, key: value})
            running[value] = ppo_update.Process("ours", sys.executable, folder, ["--quantization", quantization])
        for turn in range(updates + 1):
            for value, process in running.items():
                report = process.update()
                print(f"{axis} {value}, {turn}: {report['cpu']:.1f} s of CPU", file=sys.stderr)
                if turn:  # the first is to warm up
                    reports[value].append(report)
        return {value: point(reports[value], process.facts) for value, process in running.items()}
    finally:
        for process in running.values():
            process.stop()


def point(reports: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one point."""
    return {
        "seconds": statistics.median(report["cpu"] for report in reports),
        "MiB": max(report["peak_rss_mib"] for report in reports) - facts["import_rss_mib"],
        "real tokens": reports[0]["real_tokens"],
        "phases": {
            phase: statistics.median(report["phases"][phase]["cpu"] for report in reports)
            for phase in ppo_update.PHASES
        },
        "all seconds": [report["cpu"] for report in reports],
        "versions": facts["versions"],
    }


def show(axis: str, points: dict[int, dict[str, Any]], lines: dict[str, dict[str, float]]) -> None:
    """Print the table of one axis."""
    print(f"\n{AXES[axis][1]:>24}{'real tokens':>13}{'CPU s':>9}{'MiB':>9}")
    for value, one in points.items():
        print(f"{value:24}{one['real tokens']:13}{one['seconds']:9.2f}{one['MiB']:9.0f}")
    first, *_, last = points
    for figure, line in lines.items():
        grown = points[last][figure] / points[first][figure]
        print(
            f"  {figure}: R² {line['r2']:.3f}; x{line['at twice the base']:.2f} at twice the base; "
            f"x{grown:.2f} measured from {first} to {last} (x{last // first})"
        )


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw both figures against every axis, with the fitted lines, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    count = len(found)
    figure, rows = pyplot.subplots(2, count, figsize=(3.1 * count, 5.4), squeeze=False, sharey="row", sharex="col")
    for row, (key, label), colour in zip(rows, FIGURES.items(), ("#1f5fa8", "#b3541e"), strict=True):
        for axes, (axis, case) in zip(row, found.items(), strict=True):
            name, _, _ = AXES[axis]
            x = list(case["points"])
            line = case["lines"][key]
            ends = [0, x[-1] * 1.05]
            axes.plot(ends, [line["start"] + line["slope"] * end for end in ends], color="#999999", linewidth=1)
            for value, one in case["points"].items():
                inside = "white" if value == BASE[name] else colour
                axes.plot(value, one[key], "o", color=colour, markerfacecolor=inside, markersize=6, markeredgewidth=1.6)
            told = f"R² {line['r2']:.3f}, ×{line['at twice the base']:.2f} at twice the base"
            axes.set_title(told, fontsize=8, color="#444444")
            axes.set_xticks(x)
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_xlim(0, x[-1] * 1.08)
        row[0].set_ylim(bottom=0)
        row[0].set_ylabel(label)
    for axes, axis in zip(rows[1], found, strict=True):
        axes.set_xlabel(AXES[axis][1])
    base = "{episodes} episodes, replies of {reply} tokens, rank {rank}, {layers} layers, hidden {hidden}".format(
        **BASE
    )
    figure.suptitle(f"One PPO update, one thing varied at a time; hollow: the base point, {base}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=3, help="that count; one more comes before them")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, help="draw a plot there (needs matplotlib)")
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    transformers.logging.disable_progress_bar()
    told: dict[str, Any] = {"command": sys.argv, "machine": ppo_update.machine(), "versions": protocol.versions()}
    print(told["machine"], told["versions"], sep="\n")
    found: dict[str, Any] = {}
    for axis in arguments.axes:
        name, _, values = AXES[axis]
        with tempfile.TemporaryDirectory() as folder:
            points = measure(axis, Path(folder), arguments.updates, arguments.seed, arguments.quantization)
        lines = {key: fit(values, [one[key] for one in points.values()], BASE[name]) for key in FIGURES}
        found[axis] = {"points": points, "lines": lines}
        show(axis, points, lines)
        if arguments.json:
            arguments.json.write_text(json.dumps({**told, "base": BASE, "axes": found}, indent=1))
    if arguments.png:
        plot(found, arguments.png)
        print(f"\nwrote {arguments.png}")


if __name__ == "__main__":
    main()
