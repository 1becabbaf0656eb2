"""Every form that a recipe may ask of optimizer, checkpointing, critic and adapter goes through both stages on the
rehearsal's twin, and a run cut back to an earlier checkpoint ends like the undisturbed one, to the bit."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from lite_huatuo import recipe as recipes
from lite_huatuo.planning import config_file
from lite_huatuo.rehearsal import checks, data, short, twin
from lite_huatuo.run_dir import RunDir

OPTIMIZERS = ("adamw", "paged_adamw_8bit")
FORMS = ({"dora": True}, {"rslora": True})  # a plain adapter is what the shipped recipes have
CASES = list(itertools.product(OPTIMIZERS, (True, False), ("own", "reference"), FORMS))


def named(case: object) -> str:
    return "-".join(map(str, case)) if isinstance(case, dict) else str(case)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of Qwen2.5-7B."""
    config, _ = config_file.find(recipes.load("qwen7b").base.model)
    return twin.make(config, data.problems("en"), tmp_path_factory.mktemp("twin"))


@pytest.mark.parametrize(("optimizer", "checkpointing", "trunk", "form"), CASES, ids=named)
def test_each_form_survives(
    base: Path, tmp_path: Path, optimizer: str, checkpointing: bool, trunk: str, form: dict[str, bool]
) -> None:
    from lite_huatuo.training import ppo, sft

    recipe = recipes.load("qwen7b")
    tree = short.shorten(recipe, twin=base, rows=data.write(data.problems("en"), tmp_path), verifier={"kind": "exact"},
                         on="cpu", processes=1).tree  # fmt: skip
    tree["base"]["compute_dtype"] = "float32"
    tree["data"].update(sft_limit=8, heldout_limit=1, sft_eval_share=0.0)
    tree["adapter"].update(form)
    tree["sft"].update(optimizer=optimizer, gradient_checkpointing=checkpointing, epochs=2.0, save_every=1)
    tree["ppo"].update(optimizer=optimizer, gradient_checkpointing=checkpointing, epochs=1, save_every=1)
    tree["ppo"].update(critic_warmup_updates=0, total_episodes=8, selection_problems=1, eval_every=2)
    tree["ppo"]["critic"]["trunk"] = trunk
    tree["ppo"]["rollout"]["max_reply_length"] = 16
    short_recipe = recipes.check(tree, "form")

    whole = RunDir.create(tmp_path / "whole", short_recipe.model_dump())
    sft.train(short_recipe, whole)
    ppo.train(short_recipe, whole, accept_verifier=True)
    assert checks.trained(short_recipe, whole.path) is None

    cut = tmp_path / "cut"
    shutil.copytree(whole.path, cut)
    shutil.rmtree(cut / "ppo" / "final")
    shutil.rmtree(cut / "ppo" / "checkpoints" / "update-000002")
    ppo.train(short_recipe, RunDir(cut), accept_verifier=True)
    assert checks.same(whole.path, cut, tolerance=0.0) is None
