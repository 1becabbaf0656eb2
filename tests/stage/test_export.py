"""The exported model is the trained one: loaded back by transformers alone, compared by its logits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lite_huatuo.errors import ExportError
from lite_huatuo.export import logit_parity, merge, parity, shard_writer
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir


def export(toy_run: RunDir, to: Path, onto: str, dtype: str, **more: bool) -> dict:
    base = toy_run.recipe()["base"]
    return merge.export(toy_run.actor(), to, base=base, onto=onto, dtype=dtype, max_shard_size="1GB", **more)


@torch.no_grad()
def logits(model: object, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits.float()  # type: ignore[operator]


def test_trained_promise_is_the_trained_model_exactly(toy_run: RunDir, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    figures = export(toy_run, tmp_path / "model", "trained", "float32")
    assert figures["kl_to_trained"] < 1e-6
    assert figures["same_greedy_texts"] == figures["greedy_texts"] == 8
    shared = SharedBase.from_adapters(backends.load(**toy_run.recipe()["base"]), {"actor": toy_run.actor()}, ())
    ids = shared.tokenizer.query("Patient 301 has rash. Which cure?")
    with shared.using("actor"):
        expected = logits(shared.causal, ids)
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32), ids)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_trained_promise_of_a_run_in_another_type(toy_run: RunDir, tmp_path: Path) -> None:
    """The toy's base is stored in float32; in bfloat16 it was another model, which is the one to compare with."""
    base = {**toy_run.recipe()["base"], "compute_dtype": "bfloat16"}
    figures = merge.export(
        toy_run.actor(), tmp_path / "model", base=base, onto="trained", dtype="float32", max_shard_size="1GB"
    )
    assert figures["kl_to_trained"] < 1e-6
    other = {**base, "compute_dtype": "float32"}
    with pytest.raises(ExportError, match="differs from base"):
        logit_parity.compare(tmp_path / "model", toy_run.actor(), base=other, onto="trained", dtype="float32")


def test_base_promise_is_the_original_base_plus_the_adapter(
    toy_run: RunDir, toy: dict[str, str], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures = export(toy_run, tmp_path / "model", "base", "bfloat16")
    assert figures["kl_to_unmerged"] < parity.TOLERANCE["bfloat16"]
    assert figures["kl_to_trained"] > figures["kl_to_unmerged"], "the base was quantised for training"
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert stored.dtype == torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
    unmerged = PeftModel.from_pretrained(base, toy_run.actor())
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("Patient 301 has rash.")["input_ids"]
    torch.testing.assert_close(logits(stored.float(), ids), logits(unmerged, ids), rtol=0.1, atol=0.3)


def test_what_stands_beside_the_weights(toy_run: RunDir, tmp_path: Path) -> None:
    export(toy_run, tmp_path / "model", "base", "bfloat16")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "export.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())


def test_an_existing_folder_is_refused(toy_run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="already exists"):
        export(toy_run, tmp_path, "base", "bfloat16")


def test_a_result_that_differs_is_refused_and_nothing_is_left(
    toy_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCE, "bfloat16", 0.0)
    with pytest.raises(ExportError, match="differs from base"):
        export(toy_run, tmp_path / "model", "base", "bfloat16")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_fit_is_proven_by_its_tensors(
    toy_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logit_parity, "MARGIN", 1e9)
    figures = export(toy_run, tmp_path / "model", "trained", "bfloat16")
    assert figures["logits"].startswith("not compared: needs ")
    assert figures["tensors_merged"] == 14


def test_the_memory_that_counts_is_that_of_the_device_models_are_loaded_onto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1000, 1000)}, tmp_path / "model.safetensors")
    card, asked = torch.device("cuda", 1), []
    monkeypatch.setattr(backends, "own_device", lambda: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (2**20, 2**40))
    found = logit_parity.compare(tmp_path, tmp_path, base={}, onto="base", dtype="bfloat16")
    assert asked == [card]
    assert found == {"logits": "not compared: needs 0.0 GiB of memory, 0.0 are available on cuda:1"}

    class Loaded(Exception): ...

    def load(*_: object, **__: object) -> None:
        raise Loaded

    monkeypatch.setattr(backends, "load", load)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    monkeypatch.setattr(logit_parity.psutil, "virtual_memory", lambda: pytest.fail("main memory does not count"))
    with pytest.raises(Loaded):
        logit_parity.compare(tmp_path, tmp_path, base={}, onto="base", dtype="bfloat16")


KILLED = """
import os, signal, sys
from pathlib import Path
from lite_huatuo.export import merge, shard_writer
from lite_huatuo.run_dir import RunDir

run, to, written = RunDir(Path(sys.argv[1])), Path(sys.argv[2]), 0
right = merge.pieces

def pieces(*arguments):
    global written
    for piece in right(*arguments):
        written += 1
        if written == 16:
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece

merge.pieces = pieces
merge.export(run.actor(), to, base=run.recipe()["base"], onto="base", dtype="bfloat16", max_shard_size="60KB",
    logits=False)
"""


def test_a_killed_export_goes_on_from_its_finished_shards(
    toy_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "model"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(toy_run.path), str(to)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not to.exists(), "nothing half-written under the final name"
    done = sorted(path.name for path in merge.work_folder(to).glob("*.safetensors"))
    assert len(done) >= 2
    damaged = merge.work_folder(to) / done[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x55")
    written, right = [], shard_writer.write
    monkeypatch.setattr(
        shard_writer, "write", lambda path, *rest: written.append(path.name[1:-5]) or right(path, *rest)
    )
    arguments = {"base": toy_run.recipe()["base"], "onto": "base", "dtype": "bfloat16", "max_shard_size": "60KB"}
    merge.export(toy_run.actor(), to, **arguments, logits=False)
    assert done[0] in written, "a shard whose checksum is wrong is written again"
    assert not set(done[1:]) & set(written), "finished shards are not"
    merge.export(toy_run.actor(), tmp_path / "fresh", **arguments, logits=False)
    assert contents(to) == contents(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "model"]


def test_another_request_does_not_take_over_what_was_left(toy_run: RunDir, tmp_path: Path) -> None:
    work = merge.work_folder(tmp_path / "model")
    work.mkdir()
    (work / "state.json").write_text(json.dumps({"fingerprint": "of another job", "shards": {}}))
    (work / "model-00009-of-00009.safetensors").write_bytes(b"old")
    export(toy_run, tmp_path / "model", "base", "bfloat16", logits=False)
    assert not (tmp_path / "model" / "model-00009-of-00009.safetensors").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
