"""Resumed equals uninterrupted, bit for bit on the CPU; checkpoints that are damaged or torn are told or skipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.errors import CheckpointError
from lite_huatuo.recipe import PPO, SFT, Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from lite_huatuo.training.progress import Quiet
from tests import tiny
from tests.stage.comparing import assert_same_run
from tests.stage.killing import KillAt, Killed

OPTIMIZERS = {name for section in (SFT, PPO) for name in get_args(section.model_fields["optimizer"].annotation)}


def both(recipe: Recipe, run: RunDir, progress: Quiet | None = None) -> None:
    sft.train(recipe, run, progress)
    ppo.train(recipe, run, progress)


@pytest.mark.parametrize(
    ("what", "units"),
    [
        ("evaluate base", 16),
        ("train sft", 2),
        ("train sft", 8),
        ("evaluate sft", 16),
        ("train ppo", 1),
        ("train ppo", 5),
    ],
)
def test_resumed_equals_uninterrupted(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path, what: str, units: int
) -> None:
    run = RunDir.create(tmp_path / "run", short_recipe.model_dump())
    with pytest.raises(Killed):
        both(short_recipe, run, KillAt(what, units))
    both(short_recipe, RunDir.resume(tmp_path / "run", short_recipe.model_dump()))
    assert_same_run(whole, run)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS - {"adamw"}))  # the tests above have that one
def test_every_optimizer_goes_on_to_the_bit(toy: dict[str, str], tmp_path: Path, optimizer: str) -> None:
    tree = tiny.short_recipe(toy)
    tree["adapter"] = {"rank": 32, "alpha": 32}  # an 8-bit optimizer leaves tensors of under 4,096 numbers in 32 bits
    tree["sft"]["optimizer"] = tree["ppo"]["optimizer"] = optimizer
    recipe = recipes.check(tree, optimizer)
    whole, run = tiny.trained(recipe, tmp_path / "whole"), RunDir.create(tmp_path / "run", recipe.model_dump())
    for what, units in (("train sft", 8), ("train ppo", 5)):
        with pytest.raises(Killed):
            both(recipe, run, KillAt(what, units))
        run = RunDir.resume(run.path, recipe.model_dump())
    kept = load_file(run.stage("ppo") / "checkpoints" / "update-000004" / "optimizers.safetensors")
    assert {"actor", "critic"} <= {key.partition(".")[0] for key, tensor in kept.items() if tensor.dtype == torch.uint8}
    both(recipe, run)
    assert_same_run(whole, run)


def test_the_same_seed_gives_the_same_run(whole: RunDir, short_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", short_recipe.model_dump())
    both(short_recipe, run)
    assert_same_run(whole, run)


def test_a_finished_run_is_left_alone(whole: RunDir, short_recipe: Recipe) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}
    both(short_recipe, RunDir(whole.path))
    assert before == {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}


def test_early_sft_adapters_are_kept_and_ppo_can_start_from_one(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    early = whole.stage("sft") / "early" / "step-000005" / "actor" / "adapter_model.safetensors"
    assert early.is_file()
    other = short_recipe.model_copy(
        update={"ppo": short_recipe.ppo.model_copy(update={"start_from": "early/step-000005"})}
    )
    run = RunDir.create(tmp_path / "run", other.model_dump())
    shutil.copytree(whole.stage("sft"), run.stage("sft"), dirs_exist_ok=True)
    ppo.train(other, run)
    assert (run.final("ppo", "reference") / "adapter_model.safetensors").read_bytes() == early.read_bytes()


def torn(short_recipe: Recipe, tmp_path: Path) -> RunDir:
    """Return a run killed after its second PPO checkpoint."""
    run = RunDir.create(tmp_path / "run", short_recipe.model_dump())
    with pytest.raises(Killed):
        both(short_recipe, run, KillAt("train ppo", 5))
    return run


def test_leftovers_of_a_kill_are_cleared(whole: RunDir, short_recipe: Recipe, tmp_path: Path) -> None:
    run = torn(short_recipe, tmp_path)
    checkpoints = run.stage("ppo") / "checkpoints"
    (checkpoints / ".tmp-update-000006" / "actor").mkdir(parents=True)
    with (run.stage("ppo") / "metrics.jsonl").open("a") as file:
        file.write('{"update": 6, "score/me')
    both(short_recipe, RunDir.resume(run.path, short_recipe.model_dump()))
    assert_same_run(whole, run)
    assert not list(checkpoints.glob(".tmp-*"))


def test_checkpoints_hold_no_pickle(whole: RunDir) -> None:
    for path in (whole.path / "ppo").rglob("*"):
        assert path.is_dir() or path.suffix in (".safetensors", ".json", ".jsonl"), path


def test_only_the_asked_number_of_checkpoints_is_kept(whole: RunDir) -> None:
    kept = sorted(path.name for path in (whole.stage("ppo") / "checkpoints").iterdir())
    assert kept == ["update-000004", "update-000006"]


def test_ppo_without_sft_is_told(short_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", short_recipe.model_dump())
    with pytest.raises(CheckpointError, match="no SFT adapter; run `lite-huatuo train --stage sft`"):
        ppo.train(short_recipe, run)


def test_critic_warm_up_leaves_the_actor_alone(whole: RunDir) -> None:
    rows = [row for _, row in jsonl.iter_rows(whole.stage("ppo") / "metrics.jsonl") if row["update"]]
    assert "policy/loss" not in rows[0], "update 1 is critic warm-up"
    assert abs(rows[1]["reference/kl_per_token"]) < 1e-6, "the actor was still the reference in update 2's rollout"
    assert "policy/loss" in rows[1]


def test_the_resolved_recipe_in_the_run_is_complete(whole: RunDir, short_recipe: Recipe) -> None:
    assert whole.recipe() == json.loads(json.dumps(short_recipe.model_dump()))
