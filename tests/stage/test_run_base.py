"""A run keeps to the base it began with: another one under the same name is refused, wherever the run is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import CheckpointError
from lite_huatuo.evaluation import students, targets
from lite_huatuo.models import run_base
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from tests import tiny


@pytest.fixture
def base(toy: dict[str, str], tmp_path: Path) -> Path:
    return shutil.copytree(toy["model"], tmp_path / "base")


@pytest.fixture
def recipe(toy: dict[str, str], base: Path) -> Recipe:
    tree = tiny.toy_recipe(toy)
    tree["base"]["model"] = str(base)
    return recipes.check(tree, "toy")


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    run_base.load(run, first=True, **recipe.base.model_dump())
    return run


def change(base: Path, **saving: str) -> None:
    """Write other weights where the base's were."""
    network = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        network.model.layers[-1].mlp.down_proj.weight += 0.01
    network.save_pretrained(base, **saving)


def test_other_weights_are_refused_by_all_that_use_the_run(run: RunDir, recipe: Recipe, base: Path) -> None:
    change(base)
    (run.path / "sft" / "final").mkdir()
    with pytest.raises(CheckpointError, match=r"has changed since it was started .weights: .* put it back"):
        run_base.load(run, first=True, **recipe.base.model_dump())
    with pytest.raises(CheckpointError, match="weights"):
        run_base.check(run, recipe.base.model_dump())
    with pytest.raises(CheckpointError, match="weights"):
        targets.open_run(run.path, "base")
    with pytest.raises(CheckpointError, match="weights"), students.enter(str(run.path), stage="base"):
        pass


def test_the_same_weights_in_other_files_are_the_same(run: RunDir, recipe: Recipe, base: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    network.save_pretrained(base, max_shard_size="50KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    run_base.load(run, **recipe.base.model_dump())
    run_base.check(run, recipe.base.model_dump())


def test_a_run_that_kept_nothing_is_used_as_it_is(run: RunDir, recipe: Recipe, base: Path) -> None:
    (run.path / run_base.FACTS).unlink()
    change(base)
    run_base.load(run, **recipe.base.model_dump())
    assert not (run.path / run_base.FACTS).exists(), "only training writes into a run"


def test_the_type_a_run_was_trained_in_is_kept(run: RunDir, recipe: Recipe) -> None:
    """Training goes on in it, an export is made from it; asking the run in another one is free."""
    base = {**recipe.base.model_dump(), "compute_dtype": "float32"}
    facts = json.loads((run.path / run_base.FACTS).read_text())
    (run.path / run_base.FACTS).write_text(json.dumps({**facts, "compute_dtype": "bfloat16"}))
    assert run_base.as_trained(run, base)["compute_dtype"] == "bfloat16"
    run_base.load(run, **base)
    run_base.check(run, base)
    with pytest.raises(CheckpointError, match=r"compute_dtype: 'bfloat16' → 'float32'"):
        run_base.load(run, first=True, **base)


def test_a_run_of_before_goes_on_in_any_type(run: RunDir, recipe: Recipe) -> None:
    path, base = run.path / run_base.FACTS, recipe.base.model_dump()
    facts = json.loads(path.read_text())
    del facts["compute_dtype"]
    path.write_text(json.dumps(facts))
    run_base.load(run, first=True, **base)
    assert run_base.as_trained(run, base) == base


def test_a_gguf_file_is_told_by_the_digest_in_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITE_HUATUO_CACHE", str(tmp_path))
    folder = tmp_path / "gguf" / "model-0123456789abcdef"
    folder.mkdir(parents=True)
    assert run_base.identity(str(folder)) == {"gguf": "model-0123456789abcdef"}


def test_a_base_from_the_hub_is_asked_for_by_its_commit(run: RunDir, recipe: Recipe) -> None:
    assert run_base.section(run, recipe.base.model_dump())["revision"] is None
    (run.path / run_base.FACTS).write_text('{"commit": "0123abc"}')
    assert run_base.section(run, recipe.base.model_dump()) == {**recipe.base.model_dump(), "revision": "0123abc"}
    assert run_base.identity("org/name", "0123abc") == {"commit": "0123abc"}
