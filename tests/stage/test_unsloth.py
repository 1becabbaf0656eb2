"""The unsloth backend for real, in its CPU mode: both stages, several adapters on one base, saving; and its SFT loss is
that of the plain backend. Each backend has a process of its own, for unsloth patches transformers on import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.unsloth

# what a process of its own does: both stages on the toy task, then what there is to say about it
SCRIPT = """
import json, sys
from pathlib import Path
backend, model, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
if backend == "unsloth":
    import unsloth
import torch
torch.set_num_threads(1)
from lite_huatuo import jsonl, recipe as recipes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from tests import tiny
tree = tiny.short_recipe(model)
tree["base"]["backend"] = backend
recipe = recipes.check(tree, backend)
run = RunDir.create(folder / backend, recipe.model_dump())
sft.train(recipe, run)
ppo.train(recipe, run)
rows = {stage: [row for _, row in jsonl.iter_rows(run.stage(stage) / "metrics.jsonl")] for stage in ("sft", "ppo")}
loaded = backends.load(**recipe.base.model_dump())
roles = {"actor": run.final("ppo"), "critic": run.final("ppo", "critic"), "reference": run.final("sft")}
shared = SharedBase.from_adapters(loaded, roles, ("actor",))
sums = {}
for name in (*roles, "base"):
    with shared.using(name), torch.no_grad():
        sums[name] = shared.states([[60, 61, 62], [70, 71]]).double().sum().item()
losses = [row["sft/loss"] for row in rows["sft"] if "sft/loss" in row]
told = {"backend": loaded.backend, "packs": loaded.packs, "sums": sums}
told.update(sft=losses, updates=[row["update"] for row in rows["ppo"]])
(folder / f"{backend}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("backends")
    files = tiny.write_toy(folder / "toy")
    for backend in ("plain", "unsloth"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, backend, json.dumps(files), str(folder)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return {backend: json.loads((folder / f"{backend}.json").read_text()) for backend in ("plain", "unsloth")}


def test_both_stages_run_on_unsloth(told: dict[str, dict]) -> None:
    assert told["unsloth"]["backend"] == "unsloth"
    assert not told["unsloth"]["packs"]  # it has an attention of its own: rows are padded, replies by `generate`
    assert told["unsloth"]["updates"] == told["plain"]["updates"] == list(range(7))


def test_the_sft_loss_is_that_of_the_plain_backend(told: dict[str, dict]) -> None:
    assert len(told["plain"]["sft"]) > 5
    assert told["unsloth"]["sft"] == pytest.approx(told["plain"]["sft"], rel=1e-3)


def test_several_adapters_stand_on_one_unsloth_base(told: dict[str, dict]) -> None:
    sums = told["unsloth"]["sums"]
    assert len({round(total, 6) for total in sums.values()}) == 4, "actor, critic, reference and base differ"
