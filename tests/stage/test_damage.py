"""Damaged state is found, named, and never gone on with: the newest sound checkpoint is used, or the run stops."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lite_huatuo import jsonl, manifest
from lite_huatuo import recipe as recipes
from lite_huatuo.errors import CheckpointError, RecordError
from lite_huatuo.export import card_facts
from lite_huatuo.processes import ALONE
from lite_huatuo.recipe import PPO, Recipe, VerifierSection
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import checkpoint, heldout, ppo, preflight, sft
from lite_huatuo.training.ppo_stage import State
from lite_huatuo.training.progress import Quiet
from lite_huatuo.verifier.exact import ExactVerifier
from tests.damage import DAMAGES, cut, flip
from tests.stage import data_jobs
from tests.stage.comparing import assert_same_run, assert_same_tensors
from tests.stage.killing import KillAt, Killed, after_sft


@pytest.fixture(scope="module")
def killed_in_ppo(whole: RunDir, short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose SFT is the whole one's and whose PPO was killed after update 5. Copy it."""
    run = after_sft(whole, short_recipe, tmp_path_factory.mktemp("killed") / "run")
    with pytest.raises(Killed):
        ppo.train(short_recipe, run, KillAt("train ppo", 5))
    return run


@pytest.fixture(scope="module")
def killed_in_sft(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose SFT was killed after step 8. Copy it."""
    run = RunDir.create(tmp_path_factory.mktemp("killed") / "run", short_recipe.model_dump())
    with pytest.raises(Killed):
        sft.train(short_recipe, run, KillAt("train sft", 8))
    return run


def copied(run: RunDir, tmp_path: Path) -> RunDir:
    """Return a copy of a run, to be written into."""
    return RunDir(shutil.copytree(run.path, tmp_path / "run"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_from_a_damaged_ppo_checkpoint_the_one_before_is_used(
    whole: RunDir, killed_in_ppo: RunDir, short_recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    run = copied(killed_in_ppo, tmp_path)
    newest = max((run.stage("ppo") / "checkpoints").glob("update-*"))
    DAMAGES[damage](newest / "critic" / "adapter_model.safetensors")
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)
    told = [row for _, row in jsonl.iter_rows(run.path / "events.jsonl") if row["event"] == "damaged checkpoint"]
    assert [newest.name in row["text"] for row in told] == [True]
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


def test_swapped_adapters_are_found(whole: RunDir, killed_in_ppo: RunDir, short_recipe: Recipe, tmp_path: Path) -> None:
    run = copied(killed_in_ppo, tmp_path)
    newest = max((run.stage("ppo") / "checkpoints").glob("update-*"))
    actor, critic = (newest / name / "adapter_model.safetensors" for name in ("actor", "critic"))
    actor.rename(newest / "other")
    critic.rename(actor)
    (newest / "other").rename(critic)
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


def told_damaged(run: RunDir) -> list[str]:
    return [
        row["text"] for _, row in jsonl.iter_rows(run.path / "events.jsonl") if row["event"] == "damaged checkpoint"
    ]


def test_another_runs_checkpoint_is_not_gone_on_with(
    whole: RunDir, killed_in_ppo: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    run = copied(killed_in_ppo, tmp_path)
    newest = max((run.stage("ppo") / "checkpoints").glob("update-*"))
    shutil.rmtree(newest)
    shutil.copytree(whole.stage("ppo") / "checkpoints" / newest.name, newest)
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)
    assert [text.startswith(f"{newest.name} is damaged (it is of another run);") for text in told_damaged(run)] == [
        True
    ]


def test_a_checkpoint_under_another_name_is_not_gone_on_with(
    whole: RunDir, killed_in_ppo: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    run = copied(killed_in_ppo, tmp_path)
    earlier, newest = sorted((run.stage("ppo") / "checkpoints").glob("update-*"))
    shutil.rmtree(newest)
    shutil.copytree(earlier, newest)
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)
    assert [f"{newest.name} is damaged (it is number 2 under" in text for text in told_damaged(run)] == [True]
    state = json.loads((newest / "state.json").read_text())  # written anew
    assert state["stage"]["update"] == 4


def sealed(folder: Path, run: str | None, number: int) -> Path:
    folder.mkdir(parents=True)
    checkpoint.mark(folder, run, number)
    manifest.seal(folder)
    return folder


def test_what_says_whose_a_checkpoint_is(tmp_path: Path) -> None:
    def found(run: str | None) -> str | None:
        path, _ = checkpoint.latest(tmp_path, "step-*", run=run)
        return path.name if path else None

    sealed(tmp_path / "step-9", "mine", 9)
    sealed(tmp_path / "step-10", "other", 10)
    sealed(tmp_path / "step-11", "mine", 9)
    sealed(tmp_path / "step-12", "mine", 12).joinpath("origin.json").unlink()
    manifest.seal(tmp_path / "step-12")
    assert checkpoint.misplaced(tmp_path / "step-12", None) is None, "runs from before have none"
    assert checkpoint.misplaced(tmp_path / "step-10", None) is None
    assert found("mine") == "step-9"
    assert sorted(path.name for path in tmp_path.glob("damaged-*")) == [f"damaged-step-{n}" for n in (10, 11, 12)]


def test_an_sft_checkpoint_of_another_run_or_step_is_not_gone_on_with(
    whole: RunDir, killed_in_sft: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    run = copied(killed_in_sft, tmp_path)
    folder = run.stage("sft") / "checkpoints"
    shutil.copytree(folder / "checkpoint-6", folder / "checkpoint-8")
    shutil.copytree(whole.stage("sft") / "checkpoints" / "checkpoint-12", folder / "checkpoint-12")
    sft.train(short_recipe, run)
    assert_same_run(whole, run, ("sft",))
    assert [text.partition(";")[0] for text in told_damaged(run)] == [
        "checkpoint-12 is damaged (it is of another run)",
        "checkpoint-8 is damaged (it is number 6 under another name)",
    ]


@pytest.mark.parametrize("damage", ["cut", "flipped", "unsealed"])
def test_from_a_damaged_sft_checkpoint_the_one_before_is_used(
    whole: RunDir, killed_in_sft: RunDir, short_recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    run = copied(killed_in_sft, tmp_path)
    newest = max((run.stage("sft") / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    DAMAGES[damage](newest / "optimizer.pt")
    sft.train(short_recipe, run)
    assert_same_run(whole, run, ("sft",))
    aside = (newest.parent / f"damaged-{newest.name}").is_dir()
    assert aside == (damage != "unsealed")  # one without a manifest was never written to its end


def test_where_no_checkpoint_is_sound_the_run_stops_and_begins_again_only_when_told(
    whole: RunDir, killed_in_ppo: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    run = copied(killed_in_ppo, tmp_path)
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


def test_a_damaged_final_can_be_made_again_where_an_earlier_policy_was_the_best(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    shutil.rmtree(run.stage("ppo") / "final")
    newest, best = run.stage("ppo") / "checkpoints" / "update-000006", run.stage("ppo") / "best"
    state = json.loads((newest / "state.json").read_text())
    state["stage"].update(best_update=4, best_score=9.0)
    (newest / "state.json").write_text(json.dumps(state))
    manifest.seal(newest)
    for update in (2, 4):
        shutil.rmtree(best / f"update-00000{update}", ignore_errors=True)
        shutil.copytree(run.stage("ppo") / "checkpoints" / "update-000004", best / f"update-00000{update}")
    for _ in range(2):
        ppo.train(short_recipe, run)
        assert [path.name for path in best.iterdir()] == ["update-000004"]
        for part in ("actor/adapter_model", "critic/adapter_model", "value_head"):
            assert_same_tensors(
                run.stage("ppo") / "final" / f"{part}.safetensors", best / f"update-000004/{part}.safetensors"
            )
        flip(run.final("ppo") / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=r"delete it and go on with `train --resume`"):
            run.actor()
        shutil.rmtree(run.stage("ppo") / "final")


@pytest.mark.parametrize("text", ["", '{"base": {', "[]", '{"base": 3}', "\xff"])
@pytest.mark.parametrize("name", ["eval/report.json", "verifier.json", "environment.json", "eval/sft/report.json"])
def test_a_damaged_file_of_a_run_is_told_in_a_line(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.replace("base", "report").encode("latin-1"))
    told = rf"{re.escape(name)}: damaged; put it back from a copy or delete it"
    if name != "environment.json" or not text.endswith("}"):
        with pytest.raises(CheckpointError, match=told):
            card_facts.read(tmp_path, {}, "sft")
    if name == "eval/report.json":
        with pytest.raises(CheckpointError, match=told):
            heldout.read_report(tmp_path / "eval")
        with pytest.raises(CheckpointError, match=told):  # before the work: nothing of it is there
            heldout.report(None, "actor", "sft", [], None, tmp_path / "eval", Quiet())  # type: ignore[arg-type]
        file.unlink()
        assert heldout.read_report(tmp_path / "eval") == {}


@pytest.mark.parametrize(("file", "lacking"), [("ppo/metrics.jsonl", "update"), ("eval/heldout.sft.jsonl", "question")])
def test_a_damaged_row_is_told_by_its_line_when_a_card_is_written(tmp_path: Path, file: str, lacking: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    jsonl.write(path, [{"update": 1, "question": "What?", "score/mean": 0.1}, {"score/mean": 0.2}])
    with pytest.raises(RecordError, match=rf"{path}:2: no {lacking}, damaged; remove this line"):
        card_facts.read(tmp_path, {}, "sft")


def judged(folder: Path, **values: object) -> Recipe:
    """Return a recipe whose verifier is a profile in the folder."""
    profile = data_jobs.profile(folder, "http://127.0.0.1:9/v1", **values)
    verifier = {"kind": "api", "profile": str(profile), "store": str(folder / "v.sqlite")}
    base = {"model": "tiny", "max_length": 2048}
    data = {"sft": "a.jsonl", "problems": "b.jsonl"}
    return recipes.check({"name": "judged", "base": base, "data": data, "verifier": verifier}, "judged")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "another"}, "verifier.model: 'scripted-1' → 'another'"),
        ({"base_url": "http://127.0.0.1:8/v1"}, "verifier.base_url: 'http://127.0.0.1:9/v1' → 'http://127.0.0.1:8/v1'"),
        ({"extra": {"top_k": 1}}, "verifier.extra.top_k: None → 1"),
        ({"concurrency": 3, "timeout": 7, "requests_per_minute": 5, "key_env": "OTHER"}, None),
    ],
)
def test_a_judge_that_changed_since_ppo_began_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str | None
) -> None:
    recipe = judged(tmp_path)
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    preflight.same_verifier(recipe, run, anyway=False)
    jsonl.write_text(run.path / "verifier.json", '{"report": {}}')
    judged(tmp_path, **change)
    if told is None:
        preflight.same_verifier(recipe, run, anyway=False)
        return
    sealed(run.stage("sft") / "final", run.id, 0)
    with pytest.raises(CheckpointError, match=rf"{re.escape(f'({told})')}.*--accept-verifier$"):
        ppo.train(recipe, run)  # before the base, which is nowhere, is loaded
    assert (run.path / "verifier.json").exists()
    preflight.same_verifier(recipe, run, anyway=True)
    assert not (run.path / "verifier.json").exists(), "it is measured again"
    [event] = [row for _, row in jsonl.iter_rows(run.path / "events.jsonl") if row["event"] == "another verifier"]
    assert told in event["text"]
    preflight.same_verifier(recipe, run, anyway=False)


@pytest.mark.parametrize("key", ["adapter", "model"])
def test_a_judges_files_that_changed_are_another_judge(tmp_path: Path, key: str) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        (tmp_path / name).write_bytes(b"{1}")
    alone = {"kind": "adapter" if key == "adapter" else "classifier", key: str(tmp_path)}
    section = {"kind": "ensemble", "members": [{"kind": "exact"}, alone]}
    before = preflight.identity(section)
    (tmp_path / "README.md").write_text("other words")
    assert preflight.identity(section) == before
    flip(tmp_path / "adapter_model.safetensors")
    changed = preflight.identity(section)
    assert {name for name in before if before[name] != changed[name]} == {"member 2"}
    assert before["member 2"]["files"].keys() == {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verifier": "exact"}'])
def test_a_damaged_report_on_the_verifier_is_made_again(tmp_path: Path, text: str) -> None:
    recipe = judged(tmp_path)
    recipe = recipe.model_copy(update={"verifier": VerifierSection()})
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    (run.path / "verifier.json").write_text(text)
    preflight.accept_verifier(recipe, run, ExactVerifier(), anyway=True)
    measured = (run.path / "verifier.json").read_text()
    assert json.loads(measured)["report"]["accuracy"]
    preflight.accept_verifier(recipe, run, None, anyway=False)  # type: ignore[arg-type]  # it is not asked again
    assert (run.path / "verifier.json").read_text() == measured


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
