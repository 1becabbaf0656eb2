"""Our calls held against the source of the vLLM that is on the path. It is not imported: that needs its own torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.training import vllm_engine
from tests.unit.test_vllm_engine import Request, Sampling

LOADED = LoadedBase(None, None, "plain", "some/model", None, packs=True)
ARGUMENTS = vllm_engine.engine_arguments(LOADED, quantization="nf4", dtype="bfloat16", max_length=64, rank=8, seed=3)
SAMPLING, REQUEST = set(Sampling.__annotations__), set(Request.__annotations__)  # what the stand-ins are given


def package(name: str) -> Path:
    """The folder of a package that is not imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def source(path: str) -> str:
    return (package("vllm") / path).read_text()


def fields(path: str, name: str) -> set[str]:
    """The fields of a class and the arguments of its methods."""
    found = next(
        node for node in ast.walk(ast.parse(source(path))) if isinstance(node, ast.ClassDef) and node.name == name
    )
    own = {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for node in found.body:
        if isinstance(node, ast.FunctionDef):
            own.add(f"{node.name}()")
            own |= {f"{node.name}({a.arg})" for a in (*node.args.args, *node.args.kwonlyargs)}
    return own


def function(path: str, name: str) -> str:
    """The source of a function or method."""
    tree = ast.walk(ast.parse(source(path)))
    return next(ast.unparse(node) for node in tree if isinstance(node, ast.FunctionDef) and node.name == name)


def choices(path: str, name: str) -> set[Any]:
    """The values of a Literal."""
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            assert isinstance(node.value, ast.Subscript)
            return set(ast.literal_eval(node.value.slice))
    raise AssertionError(name)


def names(path: Path) -> set[str]:
    """What a module defines or imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.vllm
def test_vllm_takes_the_arguments_we_give_it() -> None:
    llm, engine = fields("entrypoints/llm.py", "LLM"), fields("engine/arg_utils.py", "EngineArgs")
    for name in ARGUMENTS:
        assert f"__init__({name})" in llm or name in engine, name  # what __init__ does not name goes to EngineArgs
    assert {"sleep(level)", "wake_up()", "generate(prompts)", "generate(sampling_params)"} <= llm
    assert {"generate(lora_request)", "generate(use_tqdm)"} <= llm
    assert "Sequence[SamplingParams]" in function("entrypoints/llm.py", "generate")
    assert set(vllm_engine.RANKS) <= choices("config/lora.py", "MaxLoRARanks")
    assert ARGUMENTS["logprobs_mode"] in choices("config/model.py", "LogprobsMode")


@pytest.mark.vllm
def test_vllm_has_the_records_we_read_and_write() -> None:
    assert fields("sampling_params.py", "SamplingParams") >= SAMPLING
    assert fields("lora/request.py", "LoRARequest") >= REQUEST
    assert {"token_ids", "logprobs"} <= fields("outputs.py", "CompletionOutput")
    assert "outputs" in str(fields("outputs.py", "RequestOutput"))
    assert "logprob" in fields("logprobs.py", "Logprob")


@pytest.mark.vllm
def test_vllm_takes_no_dora_adapter() -> None:
    assert "vLLM does not yet support DoRA" in source("lora/peft_helper.py")


@pytest.mark.vllm
def test_a_name_of_its_own_parts_an_adapter_from_the_older_one_in_the_prefix_cache() -> None:
    assert "lora_request.lora_name" in function("v1/core/kv_cache_utils.py", "_gen_lora_extra_hash_keys")


@pytest.mark.vllm
def test_a_reply_is_drawn_with_its_own_seed() -> None:
    """By both of vLLM's runners, whose seeds hold 63 bits."""
    assert "generator.manual_seed(sampling_params.seed)" in source("v1/worker/gpu_model_runner.py")
    states = source("v1/worker/gpu/sample/states.py")
    assert "seed = sampling_params.seed" in states
    assert "self.seeds = UvaBackedTensor(max_num_reqs, dtype=torch.int64)" in states


@pytest.mark.vllm
def test_a_4_bit_base_is_the_one_we_train_on() -> None:
    """NF4 with double quantization, in vLLM's core or by the plugin, which finds in vLLM what it asks for."""
    vllm_engine.check("nf4")
    if (package("vllm") / vllm_engine.OWN_4_BIT).is_file():
        loader = source("model_executor/model_loader/bitsandbytes_loader.py")
    else:
        plugin = package("vllm_bnb_plugin")
        loader = (plugin / "bitsandbytes_loader.py").read_text()
        assert "register_quantization_config('bitsandbytes')" in ast.unparse(
            ast.parse((plugin / "__init__.py").read_text())
        )
        (points,) = plugin.parent.glob("vllm_bnb_plugin-*.dist-info/entry_points.txt")
        assert "[vllm.general_plugins]" in points.read_text()
        asked = 0
        for path in plugin.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm."):
                    asked += 1
                    assert {alias.name for alias in node.names} <= offered(str(node.module)), (path.name, node.module)
        assert asked > 10
    quantised = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(loader))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "quantize_4bit"
    ]
    assert quantised
    assert all("compress_statistics=True, quant_type='nf4'" in call for call in quantised)


def offered(module: str) -> set[str]:
    """What a module of vLLM offers, what it takes over from others by a star among it."""
    base = package("vllm").parent / module.replace(".", "/")
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    stars = {
        f"{module}.{node.module}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.names[0].name == "*"
    }
    return names(path).union(*map(offered, stars))
