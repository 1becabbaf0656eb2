"""`export` as a user meets it; no model is trained for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lite_huatuo import manifest
from lite_huatuo import recipe as recipes
from tests import tiny
from tests.unit import test_compare_students as predictions


@pytest.fixture(scope="module")
def run_folder(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stage 1 is finished, with a random adapter."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(network, config).save_pretrained(folder / "sft" / "final" / "actor")
    manifest.seal(folder / "sft" / "final")
    (folder / "eval").mkdir()
    recipe = recipes.check(tiny.toy_recipe(toy), "toy")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump()))
    return folder


def test_a_dry_run_lists_files_and_sizes_and_writes_nothing(run, run_folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", run_folder, "--to", tmp_path / "m", "--dry-run", "--push", "me/model")
    assert code == 0
    assert "model.safetensors" in out
    assert "kB" in out
    assert "to me/model on the Hub, private, in one commit" in out
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
    code, _, err = run("export", run_folder, "--to", tmp_path / "m", "--onto", "trained", "--push", "me/model")
    assert code == 1
    assert "already exists and is another export" in err


def test_the_licence_of_a_llama_goes_along_or_is_asked_for(
    run, run_folder: Path, toy: dict[str, str], tmp_path: Path
) -> None:
    base = tmp_path / "Llama-3.1-tiny"
    shutil.copytree(toy["model"], base)
    mine = shutil.copytree(run_folder, tmp_path / "run")
    recipe = yaml.safe_load((mine / "recipe.yaml").read_text())
    recipe["base"]["model"] = str(base)
    (mine / "recipe.yaml").write_text(yaml.safe_dump(recipe))
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


def test_without_a_token_the_export_stays_and_the_push_is_told(
    run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from lite_huatuo.export import hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    code, _, err = run("export", run_folder, "--to", tmp_path / "m", "--tensors-only", "--push", "me/model")
    assert code == 1
    assert "no Hub token; set HF_TOKEN" in err
    assert (tmp_path / "m" / "model.safetensors").is_file()


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
