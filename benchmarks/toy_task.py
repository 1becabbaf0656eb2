"""Does PPO learn? The toy task of the tests over several seeds: a 2-layer random model, taught a form in which it is
right in about 4 of 10, then PPO with the exact verifier. With --trunk the critic has that many layers of its own and
stands on the reference's lower ones.

    python benchmarks/toy_task.py --seeds 10
    python benchmarks/toy_task.py --seeds 10 --trunk 1
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

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import heldout, ppo, sft
from tests import tiny


def one(seed: int, trunk: int | None, folder: Path) -> dict[str, float]:
    """Train one seed; return scores before and after PPO, how fast it was learned, and seconds in all."""
    files = tiny.write_toy(folder / "toy", seed=seed)
    tree = tiny.toy_recipe(files, seed=seed)
    if trunk:
        tree["ppo"]["critic"] = {"trunk": "reference", "layers": trunk}
    recipe = recipes.check(tree, "toy")
    began = time.perf_counter()
    run = RunDir.create(folder / "run", recipe.model_dump())
    sft.train(recipe, run)
    ppo.train(recipe, run)
    report = heldout.read_report(run.path / "eval")
    updates = [row for _, row in jsonl.iter_rows(run.path / "ppo" / "metrics.jsonl") if row["update"]]
    return {
        "seed": seed,
        "sft": report["sft"]["score"],
        "ppo": report["ppo"]["score"],
        "updates to 0.9": next((row["update"] for row in updates if row["score/mean"] >= 0.9), len(updates) + 1),
        "mean score of all updates": statistics.fmean(row["score/mean"] for row in updates),
        "explained variance, last 10": statistics.fmean(
            row.get("value/explained_variance", 0) for row in updates[-10:]
        ),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trunk", type=int, help="layers of the critic's own, on the reference's trunk")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(seed, arguments.trunk, Path(folder)))
        print("seed {seed}: SFT {sft:.3f} -> PPO {ppo:.3f} in {seconds:.0f} s".format(**rows[-1]), file=sys.stderr)
    good = sum(row["sft"] <= 0.5 and row["ppo"] >= 0.9 for row in rows)
    result = {
        "seeds": len(rows),
        "from at most 0.5 to at least 0.9": good,
        **{f"median {key}": statistics.median(row[key] for row in rows) for key in rows[0] if key != "seed"},
    }
    print(json.dumps({**result, "rows": rows}) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
