"""Does PPO learn? The toy task of the tests over several seeds: a 2-layer random model, taught a form in which it is
right in about 4 of 10, then PPO with the exact verifier.

    python benchmarks/toy_task.py --seeds 10
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from lite_huatuo import recipe as recipes
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import heldout, ppo, sft
from tests import tiny


def one(seed: int, folder: Path) -> dict[str, float]:
    """Train one seed; return scores before and after PPO, and seconds in all."""
    files = tiny.write_toy(folder / "toy", seed=seed)
    recipe = recipes.check(tiny.toy_recipe(files, seed=seed), "toy")
    began = time.perf_counter()
    run = RunDir.create(folder / "run", recipe.model_dump())
    sft.train(recipe, run)
    ppo.train(recipe, run)
    report = heldout.read_report(run.path / "eval")
    return {
        "seed": seed,
        "sft": report["sft"]["score"],
        "ppo": report["ppo"]["score"],
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(seed, Path(folder)))
        print("seed {seed}: SFT {sft:.3f} -> PPO {ppo:.3f} in {seconds:.0f} s".format(**rows[-1]), file=sys.stderr)
    good = sum(row["sft"] <= 0.5 and row["ppo"] >= 0.9 for row in rows)
    result = {
        "seeds": len(rows),
        "from at most 0.5 to at least 0.9": good,
        **{f"median {key}": statistics.median(row[key] for row in rows) for key in ("sft", "ppo", "seconds")},
    }
    print(json.dumps({**result, "rows": rows}) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
