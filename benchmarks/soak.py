"""A long PPO run of the toy task: does memory grow, are files left open, is every update logged once?

    python benchmarks/soak.py --updates 2000

Prints resident memory and open files along the way, the slope of memory per 1,000 updates after the first quarter
(least squares, in percent of the mean), and whether metrics.jsonl holds every update once and in order.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the toy task is the tests'

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from lite_huatuo.training.progress import Quiet
from tests import tiny

EVERY = 50


class Meter(Quiet):
    """Reads this process's memory and open files every EVERY updates of PPO."""

    def __init__(self) -> None:
        self.process, self.done, self.now = psutil.Process(), 0, ""
        self.rows: list[tuple[int, float, int]] = []  # (update, MiB, open files)

    def start(self, what: str, total: int) -> None:
        """Note what is going on."""
        self.now = what

    def advance(self, units: int = 1, **figures: float) -> None:
        """Count updates, and read."""
        if self.now != "train ppo":
            return
        self.done += units
        if units and self.done % EVERY == 0:
            self.rows.append((self.done, self.process.memory_info().rss / 2**20, self.process.num_fds()))
            if self.done % (10 * EVERY) == 0:
                print("update {}: {:.1f} MiB, {} open files".format(*self.rows[-1]), flush=True)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2000)
    chosen = parser.parse_args()
    if chosen.updates < 4 * EVERY:
        parser.error(f"--updates: a slope needs {4 * EVERY} at least")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        tree = tiny.toy_recipe(tiny.write_toy(Path(place) / "toy"))
        tree["ppo"]["total_episodes"] = 16 * chosen.updates
        tree["ppo"]["rollout"] |= {"episodes": 16, "batch_size": 16}
        tree["ppo"] |= {"learning_rate": 1e-4, "save_every": 100, "eval_every": 100, "watch": {"patience": 10**9}}
        recipe = recipes.check(tree, "soak")
        run, meter = RunDir.create(Path(place) / "run", recipe.model_dump()), Meter()
        sft.train(recipe, run)
        ppo.train(recipe, run, meter)
        logged = [row["update"] for _, row in jsonl.iter_rows(run.stage("ppo") / "metrics.jsonl")]
    late = numpy.array([row for row in meter.rows if row[0] > chosen.updates // 4])
    slope = 1000 * numpy.polyfit(late[:, 0], late[:, 1], 1)[0]
    mean = late[:, 1].mean()
    print(f"memory: {mean:.1f} MiB, slope {slope:+.2f} MiB ({slope / mean:+.2%}) per 1,000 updates")
    print(f"open files: {int(late[:, 2].min())} to {int(late[:, 2].max())}")
    print(f"metrics: every update once, in order: {logged == sorted(set(logged)) and logged[-1] == chosen.updates}")


if __name__ == "__main__":
    main()
