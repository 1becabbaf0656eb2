"""Hostile model files: absurd GGUF and safetensors headers, adapters that ask for more than plain LoRA, folders that
bring code or pickles. Each is one clear error, in little time and memory, and nothing of it runs."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lite_huatuo.errors import BackendError, CheckpointError, ExportError, LiteHuatuoError
from lite_huatuo.export import base_files
from lite_huatuo.export.adapter_file import AdapterFile
from lite_huatuo.models import adapter_config, backends, gguf, gguf_header
from lite_huatuo.models import tokenizer as tokenizers
from lite_huatuo.models.shared_base import SharedBase
from tests.fuzz.inputs import framed, gguf_file, gguf_string
from tests.tiny import make_model

HUGE = 1 << 60
MARK = "code of the folder ran"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Whatever a file claims, a test takes seconds and at most 600 MB more than before."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begin < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    """Return a GGUF file whose first value is an array that claims `count` values."""
    whole = gguf_file()
    start = whole.index(gguf_string(b"general.architecture"))
    claimed = kind.to_bytes(4, "little") + count.to_bytes(8, "little")
    return whole[:start] + gguf_string(b"x") + (9).to_bytes(4, "little") + claimed + content + bytes(100)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gguf_file(tensors=HUGE), "claims 1152921504606846976 tensors"),
        (gguf_file(values=HUGE), "claims 1152921504606846976 values"),
        (array(7, HUGE), "values in an array"),  # the library would take empty values for ever
        (array(0, HUGE), "values in an array"),
        (array(8, HUGE), "values in an array"),
        (array(9, 1, b"".join(b"\x09\0\0\0" + (1).to_bytes(8, "little") for _ in range(5000))), "inside one another"),
        (array(0, 5_000_000, bytes(5_000_100)), "its arrays have more than 4000000 values"),
        (array(77, 1), "unknown type 77"),
        (gguf_file(offset=HUGE), "is said to lie at bytes"),
        (gguf_file(offset=32), "is said to lie at bytes"),
        (gguf_file(shape=(HUGE, HUGE)), "is said to lie at bytes"),
        (gguf_file(shape=(0, 4)), "has the shape"),
        (gguf_file(shape=(1,) * 9), "has 9 dimensions"),
        (gguf_file(blocks=1 << 31), "its block_count is 2147483648, which its tensors cannot fill"),
        (gguf_file(values=4), "broken|breaks off|stands twice|unknown type|more than fit"),
        (gguf_file()[:-1], "is said to lie at bytes"),
        (gguf_file()[:60], "more than fit|breaks off"),
        (b"GGUF", "breaks off"),
        (b"", "cannot be read as a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "does not begin with GGUF"),
        (b"GGUF" + (1 << 24).to_bytes(4, "big") + bytes(100), "version 0x1 is neither 2 nor 3"),
        (
            gguf_file().replace(b"llama.block_count", b"general.alignment").replace(b"\1\0\0\0\x15", b"\3\0\0\0\x15"),
            "two",
        ),
    ],
)
def test_an_absurd_gguf_header_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=rf"x\.gguf: .*({told})"):
        gguf_header.read(path)
    with pytest.raises(BackendError, match=r"x\.gguf"):
        gguf.dequantised(path)
    assert not list(gguf.cache_dir().rglob(".making-*"))


def test_two_gguf_tensors_of_one_name_and_one_over_another_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "x.gguf", gguf_file(tensors=2)
    entry = whole[whole.rindex(gguf_string(b"t")) : whole.rindex(gguf_string(b"t")) + 45 - 4]
    start = whole.rindex(gguf_string(b"t")) + len(entry)
    for second, told in ((entry, "two tensors are called 't'"), (entry.replace(b"t", b"u"), "lies over another")):
        head = whole[:start] + second
        path.write_bytes(head + bytes(-len(head) % 32) + bytes(64))
        with pytest.raises(BackendError, match=told):
            gguf_header.read(path)


def test_a_gguf_file_with_a_tensor_too_few_is_no_model(toy: dict[str, str], tmp_path: Path) -> None:
    """transformers fills what is missing with random numbers and a warning."""
    from tests.unit import test_backends

    state = load_file(Path(toy["model"]) / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    folder = tmp_path / "model"
    shutil.copytree(toy["model"], folder)
    test_backends.write_gguf(folder, tmp_path / "whole.gguf")
    assert gguf_header.read(tmp_path / "whole.gguf").tensors
    data = (tmp_path / "whole.gguf").read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight")
    (tmp_path / "less.gguf").write_bytes(data)
    assert name in state
    with pytest.raises(BackendError, match=r"less\.gguf: has no tensor for model\.layers\.1\.mlp\.up_proj\.weight"):
        gguf.dequantised(tmp_path / "less.gguf")


GOOD = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    "content",
    [
        framed(GOOD, bytes(8), HUGE),
        framed(GOOD, bytes(8), len(GOOD) + 1000),
        framed(GOOD, bytes(7)),
        framed(GOOD.replace("[0,8]", f"[0,{HUGE}]"), bytes(8)),
        framed(GOOD.replace("[0,8]", "[8,0]"), bytes(8)),
        framed(GOOD.replace("[2]", f"[{HUGE},{HUGE}]"), bytes(8)),
        framed(GOOD.replace("[2]", "[-1]"), bytes(8)),
        framed(GOOD.replace("[2]", f"[{1 << 49},0,{1 << 49}]").replace("8]}", "0]}")),
        framed('{"a":' + "[" * 100_000, bytes(8)),
        framed(GOOD[:-1] + ',"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', bytes(16)),
        framed(GOOD.replace("F32", "F4"), bytes(8)),
        framed("\x80", bytes(8)),
        framed("[]"),
        b"",
        b"\0" * 8,
    ],
)
def test_an_absurd_safetensors_header_is_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("model.safetensors", adapter_config.WEIGHTS):
        (tmp_path / name).write_bytes(content)
    (tmp_path / adapter_config.CONFIG).write_text('{"peft_type": "LORA"}')
    with pytest.raises(ExportError, match=r"model\.safetensors"):
        base_files.header(tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=r"no adapter can be read|not a name"):
        AdapterFile(tmp_path)


# --- Adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter of the toy base."""
    shared = SharedBase.fresh(
        backends.load(toy["model"], quantization="none"), "actor", rank=4, alpha=8, targets="all-linear"
    )
    folder = tmp_path_factory.mktemp("adapter") / "actor"
    shared.save("actor", folder)
    return folder


def attach(toy: dict[str, str], folder: Path) -> SharedBase:
    return SharedBase.from_adapters(backends.load(toy["model"], quantization="none"), {"actor": folder}, ())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "auto_mapping"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_"),
        ({"megatron_core": "evil"}, "megatron_core"),
        ({"corda_config": {"cache_file": "evil.pt"}}, "corda_config"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type"),
        ({"peft_type": None}, "peft_type is missing"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"layer_replication": [[0, 9999]]}, "layer_replication"),
        ({"custom_class": "evil.Class"}, "custom_class"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"target_modules": ["q_proj"]}, "made for another base|does not fit"),
        ({"target_modules": ["nothing_here"]}, "does not fit"),
        ({"r": 1 << 20}, "the adapter's tensors have rank 4"),
        ({"rank_pattern": {"q_proj": 1 << 30}}, "tensors have rank 4"),
        ({"r": "x"}, "tensors have rank 4"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_an_adapter_that_asks_for_more_than_plain_lora_is_refused(
    change: dict[str, Any], told: str, saved: Path, toy: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "actor"
    shutil.copytree(saved, folder)
    config = json.loads((folder / adapter_config.CONFIG).read_text())
    (folder / adapter_config.CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=told):
        attach(toy, folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\udcff"])
def test_a_damaged_adapter_configuration_is_told(text: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "actor"
    shutil.copytree(saved, folder)
    (folder / adapter_config.CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        adapter_config.check(folder, "org/name")


def test_an_adapter_of_another_base_is_refused(saved: Path, toy: dict[str, str], tmp_path: Path) -> None:
    """By its name where both are on the Hub, by its tensors elsewhere; peft leaves out what has no place."""
    folder = tmp_path / "actor"
    shutil.copytree(saved, folder)
    config = json.loads((folder / adapter_config.CONFIG).read_text())
    (folder / adapter_config.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "other/model"}))
    with pytest.raises(CheckpointError, match="was trained on other/model, and the base here is org/name"):
        adapter_config.check(folder, "org/name")
    adapter_config.check(folder, "Other/Model")
    state = load_file(folder / adapter_config.WEIGHTS)
    longer = {key.replace(".layers.1.", ".layers.7."): tensor for key, tensor in state.items()}
    for wrong in (longer, {key: tensor for key, tensor in state.items() if ".layers.1." not in key}):
        save_file(wrong, folder / adapter_config.WEIGHTS)
        with pytest.raises(CheckpointError, match="was made for another base"):
            attach(toy, folder)


def test_an_adapter_of_a_wider_base_is_refused(saved: Path, tmp_path: Path) -> None:
    wider = make_model(tmp_path / "wider", ["a fever"], hidden=128)
    with pytest.raises(CheckpointError, match="does not fit the base"):
        SharedBase.from_adapters(backends.load(str(wider), quantization="none"), {"actor": saved}, ())


def test_a_pickled_adapter_is_refused(saved: Path, toy: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "actor"
    shutil.copytree(saved, folder)
    (folder / adapter_config.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is not read: unpickling runs its code"):
        attach(toy, folder)


# --- Folders with code or pickles ------------------------------------------------------------------------------------


@pytest.fixture
def evil(toy: dict[str, str], tmp_path: Path) -> Path:
    """A model folder with code beside it, which its configurations ask to be run."""
    folder = tmp_path / "evil"
    shutil.copytree(toy["model"], folder)
    (folder / "evil.py").write_text(f"raise SystemExit({MARK!r})\n")
    for name, asked in (
        ("config.json", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Tokenizer", None]}),
    ):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "auto_map": asked}))
    return folder


def unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))


def test_code_of_a_known_kind_of_model_is_not_run(evil: Path) -> None:
    assert backends.load(str(evil), quantization="none").model.config.model_type == "llama"
    assert tokenizers.load(str(evil)).pad_id == 0


@pytest.mark.parametrize("load", [backends.load, tokenizers.load], ids=["model", "tokenizer"])
def test_a_model_that_needs_its_own_code_is_refused(load: Callable[[str], Any], evil: Path) -> None:
    unknown_type(evil)
    with pytest.raises(BackendError, match="needs code of its own, which is never run here"):
        load(str(evil))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused(name: str, toy: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(toy["model"], folder)
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(BackendError, match=rf"pickled \({name}\).*would run their code.*safetensors"):
        backends.load(str(folder), quantization="none")
    with pytest.raises(LiteHuatuoError, match="safetensors"):
        base_files.find(str(folder), None)
