"""The demo recipe over several seeds: what SFT teaches and PPO keeps. Needs the demo's model (`make demo` installs it).

    python benchmarks/demo.py --seeds 42 43 44 --runs runs/demo_seeds

Runs that are there already are read, not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from lite_huatuo import recipe as recipes
from lite_huatuo.cli.results import ROWS, cells
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import heldout, ppo, sft


def one(seed: int, folder: Path) -> dict[str, dict]:
    """Train one seed, unless it was trained, and return its report."""
    path = folder / f"seed-{seed}"
    if not (path / "ppo" / "final").is_dir():
        overrides = tuple(f"{section}.seed={seed}" for section in ("data", "sft", "ppo"))
        recipe = recipes.load("demo", overrides)
        began = time.perf_counter()
        run = RunDir.create(path, recipe.model_dump())
        sft.train(recipe, run)
        ppo.train(recipe, run)
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return heldout.read_report(path / "eval")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reports = {seed: one(seed, arguments.runs) for seed in arguments.seeds}
    if arguments.json:
        print(json.dumps(reports))
        return
    print("| seed | | well-formed | mean score | verified right | mean reply length |\n|---|---|---|---|---|---|")
    for seed, report in reports.items():
        for key, label in ROWS.items():
            print(f"| {seed} | {label} | {' | '.join(cells(report[key]))} |")
    for key, label in ROWS.items():
        scores = [report[key]["score"] for report in reports.values()]
        formed = [report[key]["well_formed"] / report[key]["problems"] for report in reports.values()]
        print(
            f"median over seeds, {label}: well-formed {statistics.median(formed):.2f}, "
            f"score {statistics.median(scores):.3f}"
        )


if __name__ == "__main__":
    main()
