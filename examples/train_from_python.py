"""Both stages through the Python API. Give a base model's folder or Hub id, and a folder for the run.

python examples/train_from_python.py MODEL runs/from_python
"""

import sys
from pathlib import Path

from lite_huatuo import recipe as recipes
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import heldout, ppo, sft


class Lines:
    """A progress listener that prints what happens."""

    def start(self, what: str, total: int) -> None:
        """Say what begins."""
        print(f"{what} ({total})")

    def advance(self, units: int = 1, **figures: float) -> None:
        """Print figures as they come."""
        if figures:
            print("   ", {name: round(value, 3) for name, value in figures.items()})

    def note(self, text: str) -> None:
        """Print a line."""
        print(text)


model, folder = sys.argv[1], Path(sys.argv[2])
overrides = (
    f"base.model={model}",
    "data.sft_limit=16",
    "data.problems_limit=24",
    "data.heldout_limit=4",
    "sft.epochs=1.0",
    "ppo.total_episodes=8",
    "ppo.rollout.episodes=4",
    "ppo.rollout.max_reply_length=32",
    "ppo.selection_problems=4",
    "base.max_length=512",
    "data.max_query_length=256",
    "data.too_long=cut",
)
recipe = recipes.load("demo", overrides)
run = RunDir.create(folder, recipe.model_dump())
sft.train(recipe, run, Lines())
ppo.train(recipe, run, Lines())
for name, summary in heldout.read_report(run.path / "eval").items():
    print(f"{name}: {summary['well_formed']}/{summary['problems']} well-formed, mean score {summary['score']:.3f}")
