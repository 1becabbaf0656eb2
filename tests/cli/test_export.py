"""`export` as a user meets it; no model is trained for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lite_huatuo import manifest
from lite_huatuo import recipe as recipes
from lite_huatuo.errors import ExportError
from lite_huatuo.export import gguf_file, merge
from tests import tiny
from tests.unit import test_compare_students as predictions


@pytest.fixture(scope="module")
def run_folder(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stage 1 is finished, with a random adapter."""
    return make_run(tmp_path_factory.mktemp("runs") / "toy", toy)


def make_run(folder: Path, toy: dict[str, str]) -> Path:
    """Make a run whose stage 1 is finished, with a random adapter, in the new folder."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(network, config).save_pretrained(folder / "sft" / "final" / "actor")
    manifest.seal(folder / "sft" / "final")
    (folder / "eval").mkdir()
    recipe = recipes.check(tiny.toy_recipe(toy), "toy")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump()))
    return folder


def with_base(run_folder: Path, folder: Path, base: Path | str) -> Path:
    """Return a copy of the run whose recipe names another base."""
    mine = shutil.copytree(run_folder, folder)
    recipe = yaml.safe_load((mine / "recipe.yaml").read_text())
    recipe["base"]["model"] = str(base)
    (mine / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return Path(mine)


def test_a_dry_run_lists_files_and_sizes_and_writes_nothing(run, run_folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", run_folder, "--to", tmp_path / "m", "--dry-run", "--push", "me/model")
    assert code == 0
    assert "model.safetensors" in out
    assert "kB" in out
    assert "to me/model on the Hub, private, in one commit" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_the_gguf_file_and_its_modelfile_too(run, run_folder: Path, tmp_path: Path) -> None:
    code, out, err = run("export", run_folder, "--to", tmp_path / "m", "--dry-run", "--gguf", "q8_0")
    assert code == 0, err
    listed = {line.split()[2]: float(line.split()[0]) for line in out.splitlines() if len(line.split()) == 3}
    assert set(listed) == {"model.safetensors", "toy-q8_0.gguf", "Modelfile"}
    assert 0 < listed["toy-q8_0.gguf"] < listed["model.safetensors"], "8 bit and 16"
    assert list(tmp_path.iterdir()) == []


def test_merged_model_with_card_and_figures(run, run_folder: Path, tmp_path: Path) -> None:
    code, out, err = run("export", run_folder, "--to", tmp_path / "m", "--tensors-only", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["onto"], figures["dtype"], figures["tensors_merged"]) == ("base", "bfloat16", 2)
    assert figures == json.loads((tmp_path / "m" / "export.json").read_text())
    card = (tmp_path / "m" / "README.md").read_text()
    assert "Not for clinical use" in card
    assert "480 SFT examples" in card
    code, _, err = run("export", run_folder, "--to", tmp_path / "m", "--tensors-only")
    assert code == 1
    assert "already exists; give a new folder" in err


def test_the_licence_of_a_llama_goes_along_or_is_asked_for(
    run, run_folder: Path, toy: dict[str, str], tmp_path: Path
) -> None:
    base = tmp_path / "Llama-3.1-tiny"
    shutil.copytree(toy["model"], base)
    mine = with_base(run_folder, tmp_path / "run", base)
    code, _, err = run("export", mine, "--to", tmp_path / "a", "--adapter")
    assert code == 0, err
    assert "put its LICENSE into the folder" in err
    assert "Llama 3.1 Community License" in (tmp_path / "a" / "NOTICE").read_text()
    (base / "LICENSE").write_text("The agreement.")
    code, _, err = run("export", mine, "--to", tmp_path / "b", "--adapter")
    assert (code, "LICENSE" in err) == (0, False), err
    assert (tmp_path / "b" / "LICENSE").read_text() == "The agreement."


def test_a_gguf_file_with_its_modelfile(run, run_folder: Path, tmp_path: Path) -> None:
    code, _, err = run("export", run_folder, "--to", tmp_path / "m", "--tensors-only", "--gguf", "q8_0")
    assert code == 0, err
    assert (tmp_path / "m" / "toy-q8_0.gguf").read_bytes()[:4] == b"GGUF"
    assert (tmp_path / "m" / "Modelfile").read_text().startswith("FROM ./toy-q8_0.gguf\n")
    assert "ollama create student -f Modelfile" in (tmp_path / "m" / "README.md").read_text()


def test_a_gguf_file_that_was_not_finished_is_never_taken_for_one(
    run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, path: Path, kind: str, *, name: str) -> None:
        path.write_bytes(b"GGUF half of it")
        assert path.name == ".toy-f16.gguf.part"
        raise ExportError("--gguf: float16 cannot hold its values; use q8_0")

    words = ("export", run_folder, "--to", tmp_path / "m", "--tensors-only")
    with monkeypatch.context() as broken:
        broken.setattr(gguf_file, "write", half)
        code, _, err = run(*words, "--gguf", "f16")
    assert (code, "use q8_0" in err) == (1, True)
    work = tmp_path / ".exporting-m"
    assert (work / "model.safetensors").is_file(), "the next export goes on from here"
    assert [path.name for path in work.iterdir() if "gguf" in path.name] == []
    for name in ("toy-f16.gguf", ".toy-q8_0.gguf.part", "Modelfile", ".README.md.tmp"):  # as a kill leaves them
        (work / name).write_bytes(b"GGUF half of it")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    assert "1/1 model.safetensors" not in err, "the same work folder"
    assert json.loads(out)["gguf"] is None
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert not [name for name in names if "gguf" in name or name == "Modelfile" or name.startswith(".")]


def test_what_no_gguf_file_can_hold_is_told_before_the_merge(
    run, run_folder: Path, toy: dict[str, str], tmp_path: Path
) -> None:
    for number, (file, key, value, message) in enumerate(
        (
            ("config.json", "model_type", "mistral", "--gguf: mistral is not known here, only llama and qwen2"),
            ("tokenizer.json", "pre_tokenizer", {"type": "Whitespace"}, "how this tokenizer cuts text is not known"),
        )
    ):
        base = Path(shutil.copytree(toy["model"], tmp_path / f"base{number}"))
        (base / file).write_text(json.dumps({**json.loads((base / file).read_text()), key: value}))
        mine = with_base(run_folder, tmp_path / f"run{number}", base)
        for words in ([], ["--dry-run"]):
            code, _, err = run("export", mine, "--to", tmp_path / "m", "--gguf", "f16", *words)
            assert (code, message in err) == (1, True), err
        assert not (tmp_path / ".exporting-m").exists()


@pytest.mark.parametrize(("words", "fits"), [(["--gguf", "q8_0"], False), (["--low-disk"], False), ([], True)])
def test_the_disk_must_hold_the_gguf_file_and_a_fetched_shard_too(
    run,
    run_folder: Path,
    toy: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    fits: bool,
) -> None:
    free = int((Path(toy["model"]) / "model.safetensors").stat().st_size * 0.6)  # 0.5 in 16 bit, 0.27 in 8, 1 fetched
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    prepare = merge.prepare

    def remote(*arguments: Any, low_disk: bool, **options: Any) -> merge.Job:
        job = prepare(*arguments, low_disk=low_disk, **options)
        fetched = tmp_path / "fetched" if low_disk else None
        return dataclasses.replace(job, files=dataclasses.replace(job.files, fetched=fetched))

    monkeypatch.setattr(merge, "prepare", remote)
    code, _, err = run("export", run_folder, "--to", tmp_path / "m", "--tensors-only", *words)
    assert code == (0 if fits else 1), err
    assert ("are free; choose another" in err) == (not fits)
    assert (tmp_path / ".exporting-m").exists() is False


def test_nothing_that_is_exported_names_a_place_of_this_machine(
    run, run_folder: Path, toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy["model"], tmp_path / "models" / "qwen")
    for number, base in enumerate(("models/qwen", tmp_path / "models" / "qwen")):
        mine = with_base(run_folder, tmp_path / f"run{number}", base)
        for to, words in ((f"a{number}", ["--adapter"]), (f"m{number}", ["--tensors-only"])):
            code, _, err = run("export", mine, "--to", to, *words)
            assert code == 0, err
            assert ("the base has no Hub id" in err) == (to[0] == "a")
            for path in Path(to).rglob("*"):
                assert str(tmp_path).encode() not in path.read_bytes(), path
            assert ModelCard.load(Path(to) / "README.md").data.base_model is None
        config = json.loads((tmp_path / f"a{number}" / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (None, None)
        assert 'from_pretrained("BASE")' in (tmp_path / f"a{number}" / "README.md").read_text()


def test_the_adapter_alone_loads_with_peft_and_says_what_vllm_would_say(
    run, run_folder: Path, toy: dict[str, str], tmp_path: Path
) -> None:
    code, out, err = run("export", run_folder, "--to", tmp_path / "a", "--adapter")
    assert code == 0, err
    assert "vLLM will not serve it beside its base: DoRA is not supported" in out
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    ids = torch.tensor([[3, 4, 5, 6]])
    answers = []
    for folder in (tmp_path / "a", run_folder / "sft" / "final" / "actor"):
        base = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
        answers.append(PeftModel.from_pretrained(base, folder)(ids).logits)
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--push"], 2, "the recipe has no export.repo; give user/name"),
        (["--stage", "ppo"], 1, "no PPO adapter; run `lite-huatuo train --stage ppo` first"),
        (["--gguf", "f16", "--adapter"], 2, "--gguf: needs the merged model"),
        (["--onto", "nowhere"], 2, "'nowhere' is not one of"),
    ],
)
def test_mistakes_are_told(run, run_folder: Path, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    found, _, err = run("export", run_folder, "--to", tmp_path / "m", *words)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_a_student_below_its_base_is_not_published_by_mistake(run, run_folder: Path, tmp_path: Path) -> None:
    for stage, right in (("base", "+" * 12), ("sft", "-" * 12)):
        predictions.write(run_folder / "eval" / stage, right)
    words = ("export", run_folder, "--to", tmp_path / "m", "--tensors-only")
    code, _, err = run(*words, "--push", "me/model")
    assert code == 1
    assert "sft is significantly below its base over all questions" in err
    assert "give --push-below-base if you mean it" in err
    assert not (tmp_path / "m").exists()
    code, _, err = run(*words)
    assert code == 0, err
    assert "warning: " in err
    assert "significantly below its base" in err
    code, _, err = run(*words, "--push", "me/model", "--push-below-base")  # goes on to the Hub, which is not there
    assert code == 1
    assert "give --push-below-base" not in err
