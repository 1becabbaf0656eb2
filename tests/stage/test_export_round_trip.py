"""A base on a Hub, merged shard by shard, pushed, and loaded back from the Hub by those who would use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lite_huatuo import manifest
from lite_huatuo import recipe as recipes
from tests import tiny
from tests.mini_hub import MiniHub

USER = """
import json, sys
from huggingface_hub import HfApi
from lite_huatuo.cli.main import main

def command(*words):
    sys.argv = ["lite-huatuo", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words

run, base, out = sys.argv[1:4]
HfApi().create_repo("tester/base")
commit = HfApi().upload_folder(repo_id="tester/base", folder_path=base).oid
open(f"{run}/base.json", "w").write(json.dumps({"commit": commit}))
HfApi().delete_files("tester/base", ["*.safetensors"], commit_message="main moves on, the run's base does not")
merge = ("export", run, "--to", f"{out}/merged", "--low-disk", "--dtype", "float32", "--push", "tester/merged")
command(*merge)
command("export", run, "--to", f"{out}/adapter", "--adapter", "--push", "tester/adapter", "--tag", "v1")
command(*merge, "--update")

from huggingface_hub import ModelCard, scan_cache_dir
cached = {f.file_name for r in scan_cache_dir().repos for v in r.revisions for f in v.files}
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("tester/merged")
asked = [{"role": "user", "content": "Patient 3 has rash."}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
merged = AutoModelForCausalLM.from_pretrained("tester/merged", dtype=torch.float32)
adapted = AutoPeftModelForCausalLM.from_pretrained("tester/adapter", revision="v1", dtype=torch.float32)
texts = [model.generate(**ids, max_new_tokens=20, do_sample=False)[0].tolist() for model in (merged, adapted)]
logits = [model(**ids).logits for model in (merged, adapted)]
found = {
    "texts": texts,
    "difference": (logits[0] - logits[1]).abs().max().item(),
    "cached": sorted(cached),
    "license": ModelCard.load("tester/merged").data.license,
    "base": ModelCard.load("tester/adapter").data.base_model,
}
open(f"{out}/found.json", "w").write(json.dumps(found))
"""


def make_run(folder: Path, toy: dict[str, str]) -> Path:
    """A finished run, as far as an export reads it, with a random adapter; its base is on the Hub."""
    tree = tiny.toy_recipe(toy)
    tree["base"]["model"] = "tester/base"
    tree["export"] = {"max_shard_size": "100KB", "license": "mit"}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(network, config).save_pretrained(folder / "sft" / "final" / "actor")
    manifest.seal(folder / "sft" / "final")
    (folder / "eval").mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipes.check(tree, "toy").model_dump()))
    return folder


@pytest.mark.parametrize("xet", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pushed_and_loaded_back_it_writes_the_same(toy: dict[str, str], tmp_path: Path, xet: bool) -> None:
    run_folder = make_run(tmp_path / "run", toy)
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(toy["model"]).save_pretrained(base, max_shard_size="150KB")
    for path in Path(toy["model"]).glob("*token*"):
        (base / path.name).write_bytes(path.read_bytes())
    (base / "chat_template.jinja").write_text(tiny.TEMPLATE)
    (base / "LICENSE").write_text("Do as you like.")
    out = tmp_path / "out"
    out.mkdir()
    with MiniHub(xet=xet) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": str(int(not xet))}
        environment |= {"HF_TOKEN": "hf_test"}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", USER, str(run_folder), str(base), str(out)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "hf_test" not in done.stdout + done.stderr
        assert bool([path for method, path in hub.log if method == "PUT"]) is not xet, "large files go by Xet or LFS"
        assert bool([path for _, path in hub.log if "/_xet/v1/reconstructions/" in path]) is xet
        assert len(hub.repos["tester/merged"].history()) == 2, "pushed once; the second push found nothing to change"
        assert all(hub.repos[f"tester/{name}"].private for name in ("merged", "adapter"))
        assert hub.repos["tester/adapter"].tags["v1"]
        assert all((out / name / "LICENSE").read_text() == "Do as you like." for name in ("merged", "adapter"))
    assert "is this export already" in done.stderr
    found = json.loads((out / "found.json").read_text())
    assert found["texts"][0] == found["texts"][1]
    assert found["difference"] < 1e-4
    assert (found["license"], found["base"]) == ("mit", "tester/base")
    assert not [name for name in found["cached"] if name.endswith(".safetensors")], "--low-disk leaves no base behind"
    assert not list((out / "merged").glob(".*"))
    figures = json.loads((out / "merged" / "export.json").read_text())
    assert figures["tensors_merged"] == 14
    assert figures["logits"].startswith("not compared: the base's shards were deleted")
