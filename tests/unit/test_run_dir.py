"""The run folder: who may write where, what is refused, what a resumed run finds, and that no secret is in it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from lite_huatuo import __version__, jsonl, manifest
from lite_huatuo.errors import CheckpointError, RecordError
from lite_huatuo.run_dir import RunDir, environment
from tests.damage import DAMAGES

RECIPE = {
    "name": "demo",
    "base": {"model": "tiny"},
    "ppo": {"kl_coef": 0.03, "rates": [1e-5, 0.2], "warm": None},
    "launch": {"processes": 1},
    "report_to": [],
}


def changed(**changes: object) -> dict:
    return {**RECIPE, **changes}


def events(run: RunDir) -> list[dict]:
    return [row for _, row in jsonl.iter_rows(run.path / "events.jsonl")]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs" / "demo", RECIPE)


def test_a_new_run_folder_holds_what_the_contract_says(run: RunDir) -> None:
    found = {str(path.relative_to(run.path)) for path in run.path.rglob("*")}
    assert found == {
        "recipe.yaml",
        "environment.json",
        "run.json",
        "events.jsonl",
        "eval",
        "sft",
        "sft/checkpoints",
        "ppo",
        "ppo/checkpoints",
    }
    assert run.recipe() == RECIPE
    assert [event["event"] for event in events(run)] == ["created"]


def test_the_recipe_is_kept_readable_and_in_its_order(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "r", changed(note="麻疹\u2028end", zeta=1, alpha=2))
    text = (run.path / "recipe.yaml").read_text("utf-8")
    assert "麻疹" in text
    assert list(yaml.safe_load(text)) == [*RECIPE, "note", "zeta", "alpha"]
    assert run.recipe()["note"] == "麻疹\u2028end"


def test_an_empty_folder_that_exists_is_used(tmp_path: Path) -> None:
    assert RunDir.create(tmp_path, RECIPE).recipe() == RECIPE


def test_an_existing_run_is_refused_with_both_ways_out(run: RunDir) -> None:
    with pytest.raises(CheckpointError, match=r"already exists; go on with --resume or replace it with --overwrite"):
        RunDir.create(run.path, RECIPE)
    assert run.recipe() == RECIPE


def test_overwrite_leaves_nothing_of_the_old_run(run: RunDir) -> None:
    (run.path / "sft" / "final" / "actor").mkdir(parents=True)
    run.log("ppo", {"update": 1})
    new = RunDir.create(run.path, changed(base={"model": "other"}), overwrite=True)
    assert not new.is_done("sft")
    assert not (new.path / "ppo" / "metrics.jsonl").exists()
    assert new.recipe()["base"] == {"model": "other"}
    assert [event["event"] for event in events(new)] == ["created"]


@pytest.mark.parametrize("names", [["thesis.txt"], ["recipe.yaml", "thesis.txt"], ["environment.json"]], ids=str)
def test_overwrite_deletes_no_folder_that_is_not_a_run(tmp_path: Path, names: list[str]) -> None:
    for name in names:  # a folder with a user's copy of a recipe is no run either
        (tmp_path / name).write_text("precious")
    with pytest.raises(CheckpointError, match=r"is not a run folder.*--overwrite will not delete it"):
        RunDir.create(tmp_path, RECIPE, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "precious")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_the_folder_is_refused_and_kept(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "demo").write_text("precious")
    with pytest.raises(CheckpointError, match="demo: "):
        RunDir.create(tmp_path / "demo", RECIPE, overwrite=overwrite)
    assert (tmp_path / "demo").read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # tests may run as root, whom no permission stops: a file does
    with pytest.raises(CheckpointError, match=r"file/demo: cannot write the run folder \(.+\); choose another"):
        RunDir.create(tmp_path / "file" / "demo", RECIPE)


def test_an_overwrite_that_is_killed_leaves_no_half_of_a_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        (path / "environment.json").unlink()  # as far as it came
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            RunDir.create(run.path, RECIPE, overwrite=True)
    assert not run.path.exists()
    assert RunDir.create(run.path, changed(name="new"), overwrite=True).recipe()["name"] == "new"
    assert [path.name for path in run.path.parent.iterdir()] == [run.path.name]


def test_a_link_to_a_run_is_not_deleted_through(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path)
    with pytest.raises(CheckpointError, match="link: cannot write the run folder"):
        RunDir.create(tmp_path / "link", RECIPE, overwrite=True)
    assert run.recipe() == RECIPE


def test_resume_with_the_same_recipe_goes_on(run: RunDir) -> None:
    run.log("sft", {"update": 1})
    again = RunDir.resume(run.path, json.loads(json.dumps(RECIPE)))
    assert (again.path / "sft" / "metrics.jsonl").exists()
    assert [event["event"] for event in events(again)] == ["created", "resumed"]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (changed(base={"model": "other"}), "base.model: 'tiny' → 'other'"),
        (changed(ppo={**RECIPE["ppo"], "kl_coef": 0.1}), "ppo.kl_coef: 0.03 → 0.1"),
        (changed(ppo={**RECIPE["ppo"], "rates": [1e-5, 0.3]}), "ppo.rates: [1e-05, 0.2] → [1e-05, 0.3]"),
        (changed(ppo={**RECIPE["ppo"], "warm": 2}), "ppo.warm: None → 2"),
        (changed(ppo={"kl_coef": 0.03, "rates": [1e-5, 0.2], "epochs": 3}), "ppo.epochs: None → 3"),
        (changed(base={"model": "tiny", "name": "x"}), "base.name: None → 'x'"),  # only the recipe's own name is free
        (changed(base=None), "base: {'model': 'tiny'} → None"),
        ({key: value for key, value in RECIPE.items() if key != "base"}, "base: {'model': 'tiny'} → None"),
    ],
)
def test_resume_with_another_recipe_is_refused_and_shows_the_difference(run: RunDir, recipe: dict, told: str) -> None:
    with pytest.raises(CheckpointError, match="was started with another recipe") as caught:
        RunDir.resume(run.path, recipe)
    assert f"({told})" in str(caught.value)  # this difference and no other
    assert "new run with --run" in str(caught.value)
    assert [event["event"] for event in events(run)] == ["created"]


def test_every_difference_is_shown_at_once(run: RunDir) -> None:
    with pytest.raises(CheckpointError, match=r"base\.model: 'tiny' → 'b'; ppo\.kl_coef: 0\.03 → 1\.0"):
        RunDir.resume(run.path, changed(base={"model": "b"}, ppo={**RECIPE["ppo"], "kl_coef": 1.0}))


@pytest.mark.parametrize("free", [{"name": "other"}, {"report_to": ["wandb"]}, {"launch": {"processes": 4}}], ids=str)
def test_what_changes_no_number_may_differ_on_resuming(run: RunDir, free: dict) -> None:
    assert RunDir.resume(run.path, changed(**free)).path == run.path


@pytest.mark.parametrize("enter", [RunDir.open, lambda path: RunDir.resume(path, RECIPE)])
def test_where_there_is_no_run_that_is_told(tmp_path: Path, enter) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"no run here \(no recipe\.yaml\); give the folder of a run"):
            enter(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "a: [", "- a list", "\xff"])
def test_a_damaged_recipe_is_told(run: RunDir, content: str) -> None:
    (run.path / "recipe.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"recipe\.yaml: damaged; put the recipe back"):
        RunDir.resume(run.path, RECIPE)


def test_events_are_appended_with_time_and_details(run: RunDir) -> None:
    run.event("sft started", examples=80)
    first, second = events(run)
    assert (second["event"], second["examples"]) == ("sft started", 80)
    assert first["time"][:2] == "20"
    assert first["time"] <= second["time"]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_rewind_drops_later_rows_and_torn_tails(run: RunDir, stage: str) -> None:
    for update in (1, 2, 3, 4):
        run.log(stage, {"update": update})
        run.sample(stage, [{"update": update, "reply": reply} for reply in "ab"])
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (run.stage(stage) / name).open("a") as file:
            file.write('{"update": 2, "re')
    run.rewind(stage, "update", 2)
    updates = {
        name: [row["update"] for _, row in jsonl.iter_rows(run.stage(stage) / f"{name}.jsonl")]
        for name in ("metrics", "samples")
    }
    assert updates == {"metrics": [1, 2], "samples": [1, 1, 2, 2]}
    run.rewind(stage, "update", 0)
    assert (run.stage(stage) / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("row", [{"x": 1}, {"update": "2"}, {"update": None}], ids=str)
def test_rewind_tells_a_row_without_its_counter_and_leaves_the_file(run: RunDir, row: dict) -> None:
    run.log("ppo", {"update": 1})
    run.log("ppo", row)
    before = (run.stage("ppo") / "metrics.jsonl").read_bytes()
    with pytest.raises(RecordError, match=r"metrics\.jsonl:2: no update, damaged; remove this line"):
        run.rewind("ppo", "update", 1)
    assert (run.stage("ppo") / "metrics.jsonl").read_bytes() == before


def test_a_run_has_an_id_of_its_own_which_it_keeps(tmp_path: Path) -> None:
    one, other = (RunDir.create(tmp_path / name, RECIPE) for name in "ab")
    assert one.id
    assert one.id != other.id
    assert RunDir.resume(one.path, RECIPE).id == one.id
    assert RunDir.create(tmp_path / "b", RECIPE, overwrite=True).id != other.id
    (one.path / "run.json").unlink()
    assert RunDir(one.path).id is None, "of a run from before"
    (one.path / "run.json").write_text("")
    with pytest.raises(CheckpointError, match=r"run\.json: damaged; put it back from a copy or start again"):
        _ = RunDir(one.path).id


def test_rewind_before_anything_was_logged_makes_no_file(run: RunDir) -> None:
    run.rewind("ppo", "update", 0)
    assert list(run.stage("ppo").iterdir()) == [run.stage("ppo") / "checkpoints"]


def test_the_actor_is_the_newest_finished_stages(run: RunDir) -> None:
    with pytest.raises(CheckpointError, match=r"no stage is finished yet; run `lite-huatuo train --resume`"):
        run.actor()
    for stage in ("sft", "ppo"):
        assert not run.is_done(stage)
        run.final(stage).mkdir(parents=True)
        (run.final(stage) / "adapter_model.safetensors").write_bytes(b"weights")
        manifest.seal(run.path / stage / "final")
        assert run.is_done(stage)
        assert run.actor() == run.path / stage / "final" / "actor"


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_is_not_as_it_was_written_is_refused(run: RunDir, damage: str) -> None:
    run.final("sft").mkdir(parents=True)
    path = run.final("sft") / "adapter_model.safetensors"
    path.write_bytes(bytes(range(256)))
    manifest.seal(run.path / "sft" / "final")
    assert run.actor() == run.final("sft")
    DAMAGES[damage](path)
    with pytest.raises(CheckpointError, match=r"sft/final: damaged \(.*put it back from a copy"):
        run.actor()
    shutil.copytree(run.path / "sft" / "final", run.path / "sft" / "early" / "step-000005")
    with pytest.raises(CheckpointError, match=r"step-000005: damaged .* start a new run with --run$"):
        run.sound("sft", where="early/step-000005")  # no resumed run would make it again


def test_no_environment_variable_gets_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"OPENAI_API_KEY": "sk-canary-4711", "HF_TOKEN": "hf_canary_4712", "SOME_NAME_OF_MINE": "canary-4713"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    run = RunDir.create(tmp_path / "r", RECIPE)
    run.event("sft started")
    RunDir.resume(run.path, RECIPE)
    written = "".join(path.read_text("utf-8") for path in run.path.rglob("*") if path.is_file())
    assert "created" in written
    for name, value in secrets.items():
        assert name not in written
        assert value not in written


def test_the_environment_tells_what_a_number_depends_on() -> None:
    found = environment()
    assert found["lite_huatuo"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["torch"].split(".")[0] == "2"
    assert found["cpus"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_a_run_made_outside_a_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lite_huatuo.run_dir.__file__", str(tmp_path / "run_dir.py"))
    assert environment()["git"] is None
    monkeypatch.setenv("PATH", "")  # no git at all
    assert environment()["git"] is None
