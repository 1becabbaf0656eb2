"""The demo recipe over several seeds: what SFT teaches and PPO keeps. Needs the demo's model (`make demo` installs it).

    python benchmarks/demo.py --seeds 42 43 44 --runs runs/demo_seeds [--trunk 8]

Runs that are there already are read, not trained again. With --trunk, stage 2 runs once more from the same SFT adapter,
its critic having that many layers of its own on the reference's trunk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path

import torch

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.cli.results import cells
from lite_huatuo.run_dir import STAGES, RunDir
from lite_huatuo.training import heldout, ppo, sft


def one(seed: int, folder: Path) -> dict[str, dict]:
    """Train one seed, unless it was trained, and return its report."""
    path = folder / f"seed-{seed}"
    if not (path / "ppo" / "final").is_dir():
        recipe = recipes.load("demo", seeded(seed))
        began = time.perf_counter()
        run = RunDir.create(path, recipe.model_dump())
        sft.train(recipe, run)
        ppo.train(recipe, run)
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return heldout.read_report(path / "eval")


def seeded(seed: int) -> tuple[str, ...]:
    """Return the overrides that set every seed."""
    return tuple(f"{section}.seed={seed}" for section in ("data", "sft", "ppo"))


def on_a_trunk(seed: int, layers: int, folder: Path) -> dict[str, dict]:
    """Run stage 2 once more after the same stage 1, with the critic on the reference's trunk; return the report."""
    path, done = folder / f"seed-{seed}-trunk-{layers}", folder / f"seed-{seed}"
    if not (path / "ppo" / "final").is_dir():
        recipe = recipes.load("demo", (*seeded(seed), "ppo.critic.trunk=reference", f"ppo.critic.layers={layers}"))
        run = RunDir.create(path, recipe.model_dump())
        shutil.copytree(done / "sft", path / "sft", dirs_exist_ok=True)
        ppo.train(recipe, run)
    return heldout.read_report(path / "eval")


def explained(path: Path) -> str:
    """Return the critic's explained variance and loss of every update."""
    rows = [row for _, row in jsonl.iter_rows(path / "ppo" / "metrics.jsonl") if row["update"]]
    variance = ", ".join(f"{row.get('value/explained_variance', float('nan')):.2f}" for row in rows)
    losses = ", ".join(f"{row['value/loss']:.4f}" for row in rows)
    return f"explained variance {variance}; value loss {losses}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trunk", type=int, help="layers of the critic's own in a second run of stage 2")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reports = {seed: one(seed, arguments.runs) for seed in arguments.seeds}
    if arguments.json:
        print(json.dumps(reports))
        return
    print("| seed | | well-formed | mean score | verified right | mean reply length |\n|---|---|---|---|---|---|")
    for seed, report in reports.items():
        for key, label in STAGES.items():
            print(f"| {seed} | {label} | {' | '.join(cells(report[key]))} |")
    if arguments.trunk:
        for seed in arguments.seeds:
            report = on_a_trunk(seed, arguments.trunk, arguments.runs)
            print(f"| {seed} | SFT + PPO, critic on a trunk | {' | '.join(cells(report['ppo']))} |")
            for name in (f"seed-{seed}", f"seed-{seed}-trunk-{arguments.trunk}"):
                print(f"{name}: {explained(arguments.runs / name)}", file=sys.stderr)
    for key, label in STAGES.items():
        scores = [report[key]["score"] for report in reports.values()]
        formed = [report[key]["well_formed"] / report[key]["problems"] for report in reports.values()]
        print(
            f"median over seeds, {label}: well-formed {statistics.median(formed):.2f}, "
            f"score {statistics.median(scores):.3f}"
        )


if __name__ == "__main__":
    main()
