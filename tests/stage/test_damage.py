"""Damaged state is found, named, and never gone on with: the newest sound checkpoint is used, or the run stops."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.errors import CheckpointError
from lite_huatuo.processes import ALONE
from lite_huatuo.recipe import PPO, Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from lite_huatuo.training.ppo_stage import State
from lite_huatuo.training.progress import Quiet
from tests.damage import DAMAGES, cut, flip
from tests.stage.comparing import assert_same_run
from tests.stage.killing import KillAt, Killed, after_sft


def killed_after_update(recipe: Recipe, whole: RunDir, tmp_path: Path, update: int) -> RunDir:
    """Return a run whose SFT is the whole one's and whose PPO was killed after an update."""
    run = after_sft(whole, recipe, tmp_path / "run")
    with pytest.raises(Killed):
        ppo.train(recipe, run, KillAt("train ppo", update))
    return run


@pytest.mark.parametrize("damage", DAMAGES)
def test_from_a_damaged_ppo_checkpoint_the_one_before_is_used(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    run = killed_after_update(short_recipe, whole, tmp_path, 5)
    newest = max((run.stage("ppo") / "checkpoints").glob("update-*"))
    DAMAGES[damage](newest / "critic" / "adapter_model.safetensors")
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)
    told = [row for _, row in jsonl.iter_rows(run.path / "events.jsonl") if row["event"] == "damaged checkpoint"]
    assert [newest.name in row["text"] for row in told] == [True]
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


def test_swapped_adapters_are_found(whole: RunDir, short_recipe: Recipe, tmp_path: Path) -> None:
    run = killed_after_update(short_recipe, whole, tmp_path, 5)
    newest = max((run.stage("ppo") / "checkpoints").glob("update-*"))
    actor, critic = (newest / name / "adapter_model.safetensors" for name in ("actor", "critic"))
    actor.rename(newest / "other")
    critic.rename(actor)
    (newest / "other").rename(critic)
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


@pytest.mark.parametrize("damage", ["cut", "flipped", "unsealed"])
def test_from_a_damaged_sft_checkpoint_the_one_before_is_used(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    run = RunDir.create(tmp_path / "run", short_recipe.model_dump())
    with pytest.raises(Killed):
        sft.train(short_recipe, run, KillAt("train sft", 8))
    newest = max((run.stage("sft") / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    DAMAGES[damage](newest / "optimizer.pt")
    sft.train(short_recipe, run)
    assert_same_run(whole, run, ("sft",))
    aside = (newest.parent / f"damaged-{newest.name}").is_dir()
    assert aside == (damage != "unsealed")  # one without a manifest was never written to its end


def test_where_no_checkpoint_is_sound_the_run_stops_and_begins_again_only_when_told(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    run = killed_after_update(short_recipe, whole, tmp_path, 5)
    folder = run.stage("ppo") / "checkpoints"
    for path in folder.glob("update-*"):
        flip(path / "optimizers.safetensors")
    for _ in range(2):  # the damaged ones were set aside: still no reason to begin again
        with pytest.raises(CheckpointError, match="delete"):
            ppo.train(short_recipe, run)
    for path in folder.glob("damaged-*"):
        shutil.rmtree(path)
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)


def test_a_damaged_sft_adapter_is_not_the_start_of_ppo(whole: RunDir, short_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", short_recipe.model_dump())
    shutil.copytree(whole.stage("sft"), run.stage("sft"), dirs_exist_ok=True)
    flip(run.final("sft") / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"actor/adapter_model.safetensors was changed"):
        ppo.train(short_recipe, run)


def test_a_damaged_best_policy_is_not_taken(whole: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    best = run.stage("ppo") / "best" / "update-000002"
    shutil.copytree(max((whole.stage("ppo") / "checkpoints").glob("update-*")), best)
    cut(best / "value_head.safetensors")
    state = State(update=6, best_update=2, best_score=1.0)
    stage = SimpleNamespace(
        state=state, settings=PPO(), updates=6, run=run, progress=Quiet(), processes=ALONE, shared=None
    )
    with pytest.raises(CheckpointError, match=r"best policy is damaged \(value_head.safetensors has"):
        ppo._choose_final(stage)


@pytest.mark.parametrize(("stage", "file", "part"), [("sft", "sft", "sft"), ("ppo", "problems", "problems")])
def test_data_that_changed_since_the_checkpoint_is_refused(
    toy: dict[str, str], short_recipe: Recipe, tmp_path: Path, stage: str, file: str, part: str
) -> None:
    source = tmp_path / f"{file}.jsonl"
    shutil.copy(toy[file], source)
    data = short_recipe.data.model_copy(update={file: str(source), "sft_limit": None})
    recipe = short_recipe.model_copy(update={"data": data})
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    if stage == "ppo":
        sft.train(recipe, run)
    with pytest.raises(Killed):
        (sft if stage == "sft" else ppo).train(recipe, run, KillAt(f"train {stage}", 3))
    rows = [row for _, row in jsonl.iter_rows(source)]
    jsonl.write(source, rows[:-1])
    with pytest.raises(CheckpointError, match=rf"has changed since it was started \({part}.rows: \d+ → \d+"):
        (sft if stage == "sft" else ppo).train(recipe, RunDir.resume(run.path, recipe.model_dump()))
    jsonl.write(source, rows)
    assert recipes.check(run.recipe(), "recipe") == recipe
    (sft if stage == "sft" else ppo).train(recipe, RunDir.resume(run.path, recipe.model_dump()))
    assert run.is_done(stage)
