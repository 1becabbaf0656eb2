"""The vLLM engine: what it is told and what is made of its answers, with a stand-in for vLLM; and our calls held
against vLLM's source."""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training.vllm_engine import VllmEngine, engine_arguments

SAMPLING = {"temperature": 0.5, "top_p": 0.9, "max_reply_length": 7}


@dataclass
class Sampling:
    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    logprobs: int
    detokenize: bool


@dataclass
class Request:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Logprob:
    logprob: float


@dataclass
class Llm:
    """Answers with the query's first token and a stop, or without a stop where the query is long."""

    calls: list[Any] = field(default_factory=list)

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self) -> None:
        self.calls.append("wake up")

    def generate(self, prompts: list[Any], sampling: Sampling, *, lora_request: Request, use_tqdm: bool) -> list[Any]:
        assert (Path(lora_request.lora_path) / "adapter_model.safetensors").is_file()
        assert (Path(lora_request.lora_path) / "adapter_config.json").is_file()
        self.calls.append((lora_request.lora_int_id, sampling))
        answers = []
        for prompt in prompts:
            query = prompt["prompt_token_ids"]
            tokens = [query[0], 1 if len(query) < 3 else 99]
            places = [{token: Logprob(-0.5 * (n + 1))} for n, token in enumerate(tokens)]
            output = types.SimpleNamespace(token_ids=tuple(tokens), logprobs=places)
            answers.append(types.SimpleNamespace(outputs=[output]))
        return answers


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(SamplingParams=Sampling))
    monkeypatch.setitem(sys.modules, "vllm.lora", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", types.SimpleNamespace(LoRARequest=Request))


@pytest.fixture
def shared(toy: dict[str, str], toy_run: RunDir) -> SharedBase:
    return SharedBase.from_adapters(backends.load(toy["model"]), {"actor": toy_run.final("sft")}, ())


def test_replies_in_order_with_the_samplers_log_probabilities(vllm: None, shared: SharedBase) -> None:
    llm = Llm()
    engine = VllmEngine(llm)
    replies = engine.decode(shared, "actor", [[70, 71], [80, 81, 82]], **SAMPLING)
    assert [reply.tokens for reply in replies] == [[70, 1], [80, 99]]
    assert [reply.stopped for reply in replies] == [True, False]
    assert [reply.logprobs for reply in replies] == [[-0.5, -1.0]] * 2
    engine.decode(shared, "actor", [[70]], **SAMPLING)
    expected = Sampling(0.5, 0.9, 7, list(shared.tokenizer.stop_ids), 0, False)
    # it sleeps while others work, and every call hands the adapter over anew: an old one is never used again
    asleep = ("sleep", 1)
    assert llm.calls == [asleep, "wake up", (1, expected), asleep, "wake up", (2, expected), asleep]


def test_an_engine_around_the_bases_own_weights_never_sleeps(vllm: None, shared: SharedBase) -> None:
    llm = Llm()
    loaded = LoadedBase(
        types.SimpleNamespace(vllm_engine=llm), shared.tokenizer, "unsloth", "folder", None, packs=False
    )
    VllmEngine.open(loaded, quantization="nf4", dtype="bfloat16", max_length=64, rank=8).decode(
        shared, "actor", [[70]], **SAMPLING
    )
    assert [type(call) for call in llm.calls] == [tuple]


def arguments(**changes: Any) -> dict[str, Any]:
    loaded = LoadedBase(None, None, "plain", "some/model", "abc", packs=True)
    settings = {"quantization": "nf4", "dtype": "bfloat16", "max_length": 2048, "rank": 24, **changes}
    return engine_arguments(loaded, **settings)


def test_arguments() -> None:
    made = arguments()
    assert (made["model"], made["revision"], made["trust_remote_code"]) == ("some/model", "abc", False)
    assert (made["quantization"], made["max_lora_rank"]) == ("bitsandbytes", 32)
    assert arguments(quantization="none")["quantization"] is None
    with pytest.raises(BackendError, match=r"adapter\.rank: 1000; vLLM takes at most 512"):
        arguments(rank=1000)


def test_where_it_is_not_installed(shared: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    loaded = LoadedBase(types.SimpleNamespace(), shared.tokenizer, "plain", "folder", None, packs=True)
    with pytest.raises(BackendError, match=r"ppo\.rollout\.engine: vllm is not installed"):
        VllmEngine.open(loaded, quantization="nf4", dtype="bfloat16", max_length=64, rank=8)


def test_a_recipe_that_asks_for_it_says_so(toy: dict[str, str], toy_run: RunDir, tmp_path: Path) -> None:
    """`train` stops before the first rollout on a machine without vLLM, and tells what to do."""
    from lite_huatuo import recipe as recipes
    from lite_huatuo.training import ppo_stage
    from lite_huatuo.training.progress import Quiet
    from tests import tiny

    if importlib.util.find_spec("vllm") is not None:
        pytest.fail("vllm is installed here: this machine can run the engine itself")
    tree = tiny.short_recipe(toy)
    tree["ppo"]["rollout"]["engine"] = "vllm"
    recipe = recipes.check(tree, "with vllm")
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    with pytest.raises(BackendError, match="vllm is not installed"):
        ppo_stage.assemble(recipe, run, Quiet(), toy_run.final("sft"))


# against vLLM's source; importing it needs its own torch


def fields(path: str, name: str) -> set[str]:
    """The fields of a class and the arguments of its __init__, read from the source of the installed vllm."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    tree = ast.parse((Path(next(iter(spec.submodule_search_locations))) / path).read_text())
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    own = {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for node in found.body:
        if isinstance(node, ast.FunctionDef):
            own.add(f"{node.name}()")
            own |= {f"{node.name}({a.arg})" for a in (*node.args.args, *node.args.kwonlyargs)}
    return own


@pytest.mark.vllm
def test_vllm_takes_the_arguments_we_give_it() -> None:
    llm, engine = fields("entrypoints/llm.py", "LLM"), fields("engine/arg_utils.py", "EngineArgs")
    for name in arguments():
        assert f"__init__({name})" in llm or name in engine, name  # what __init__ does not name goes to EngineArgs
    assert {"sleep(level)", "wake_up()", "generate(prompts)", "generate(sampling_params)"} <= llm
    assert {"generate(lora_request)", "generate(use_tqdm)"} <= llm


@pytest.mark.vllm
def test_vllm_has_the_records_we_read_and_write() -> None:
    assert set(Sampling.__annotations__) <= fields("sampling_params.py", "SamplingParams")
    assert set(Request.__annotations__) <= fields("lora/request.py", "LoRARequest")
    assert {"token_ids", "logprobs"} <= fields("outputs.py", "CompletionOutput")
    assert "outputs" in str(fields("outputs.py", "RequestOutput"))
    assert "logprob" in fields("logprobs.py", "Logprob")
