"""The vLLM engine: what it is told and what is made of its answers, with a stand-in for vLLM; and our calls held
against vLLM's source."""

from __future__ import annotations

import importlib.util
import random
import sys
import types
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import set_seed

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.processes import ALONE
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, ppo_stage, vllm_engine
from lite_huatuo.training.decoding import Reply
from lite_huatuo.training.progress import Quiet
from lite_huatuo.training.vllm_engine import VllmEngine, engine_arguments
from tests import tiny

LIMITS = {"temperature": 0.5, "top_p": 0.9, "max_reply_length": 7}


@dataclass
class Sampling:
    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    logprobs: int
    detokenize: bool
    seed: int


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
    """Answers with the query's first token, one that depends on the adapter, and a stop, or without a stop where the
    query is long. As vLLM's prefix cache: what it read for an adapter's name once it does not read again."""

    calls: list[Any] = field(default_factory=list)
    read: dict[Any, int] = field(default_factory=dict)

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self) -> None:
        self.calls.append("wake up")

    def generate(
        self, prompts: list[Any], sampling: list[Sampling], *, lora_request: Request, use_tqdm: bool
    ) -> list[Any]:
        weights = (Path(lora_request.lora_path) / "adapter_model.safetensors").read_bytes()
        assert (Path(lora_request.lora_path) / "adapter_config.json").is_file()
        self.calls.append((lora_request.lora_int_id, sampling))
        answers = []
        for prompt, _ in zip(prompts, sampling, strict=True):
            query = prompt["prompt_token_ids"]
            state = self.read.setdefault((lora_request.lora_name, *query), zlib.crc32(weights))
            tokens = [query[0], state, 1 if len(query) < 3 else 99]
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
def shared(toy: dict[str, str]) -> SharedBase:
    return SharedBase.fresh(backends.load(toy["model"]), "actor", rank=4, alpha=8, targets="all-linear")


def test_replies_in_order_with_the_samplers_log_probabilities(vllm: None, shared: SharedBase) -> None:
    llm = Llm()
    engine = VllmEngine(llm)
    replies = engine.decode(shared, "actor", [[70, 71], [80, 81, 82]], seeds=[5, 6], **LIMITS)
    assert [(reply.tokens[0], reply.tokens[-1]) for reply in replies] == [(70, 1), (80, 99)]
    assert [reply.stopped for reply in replies] == [True, False]
    assert [reply.logprobs for reply in replies] == [[-0.5, -1.0, -1.5]] * 2
    engine.decode(shared, "actor", [[70]], seeds=[7], **LIMITS)
    stops = list(shared.tokenizer.stop_ids)
    drawn = [Sampling(0.5, 0.9, 7, stops, 0, False, seed) for seed in (5, 6, 7)]  # each reply with its own seed
    # it sleeps while others work, and every call hands the adapter over again
    asleep = ("sleep", 1)
    assert llm.calls == [asleep, "wake up", (1, drawn[:2]), asleep, "wake up", (2, drawn[2:]), asleep]


@pytest.mark.parametrize("sleeps", [True, False])
def test_an_adapter_that_has_learned_is_not_answered_for_by_its_older_self(
    vllm: None, shared: SharedBase, sleeps: bool
) -> None:
    """An engine that never sleeps keeps what it has read."""
    engine = VllmEngine(Llm(), sleeps=sleeps)
    (before,) = engine.decode(shared, "actor", [[70, 71]], seeds=[5], **LIMITS)
    with torch.no_grad():
        next(iter(shared.parameters("actor").values())).add_(1)
    (after,) = engine.decode(shared, "actor", [[70, 71]], seeds=[5], **LIMITS)
    assert before.tokens != after.tokens


def test_before_it_wakes_the_card_is_given_what_torch_has_cached(
    vllm: None, shared: SharedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = Llm()
    engine = VllmEngine(llm)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: llm.calls.append("empty"))
    engine.decode(shared, "actor", [[70]], seeds=[5], **LIMITS)
    assert llm.calls[1:3] == ["empty", "wake up"]


def test_an_engine_around_the_bases_own_weights_never_sleeps(vllm: None, shared: SharedBase) -> None:
    llm = Llm()
    loaded = LoadedBase(
        types.SimpleNamespace(vllm_engine=llm), shared.tokenizer, "unsloth", "folder", None, packs=False
    )
    VllmEngine.open(loaded, quantization="nf4", dtype="bfloat16", max_length=64, rank=8, seed=3).decode(
        shared, "actor", [[70]], seeds=[5], **LIMITS
    )
    assert [type(call) for call in llm.calls] == [tuple]


def test_opening_it_leaves_the_recipes_seed_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM in this process makes its own seed that of Python's, numpy's and torch's generators."""

    def start(*, seed: int, **_: Any) -> Llm:
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        return Llm()

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=start))
    monkeypatch.setattr(vllm_engine, "check", lambda quantization: None)
    loaded = LoadedBase(types.SimpleNamespace(), None, "plain", "some/model", None, packs=True)

    def drawn(opens: bool) -> list[Any]:
        set_seed(17)
        if opens:
            VllmEngine.open(loaded, quantization="nf4", dtype="bfloat16", max_length=64, rank=8, seed=3)
        return [random.random(), numpy.random.rand(), torch.randint(2**62, (3,)).tolist()]

    assert drawn(opens=True) == drawn(opens=False)


def test_each_episode_is_drawn_with_the_seed_that_collecting_draws(
    toy: dict[str, str], shared: SharedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed of the recipe, the same seeds of the replies; another one, others."""

    def seeds(seed: int) -> list[int]:
        asked: list[int] = []

        def decode(*_: Any, seeds: list[int], **__: Any) -> list[Reply]:
            asked.extend(seeds)
            return [Reply([1], True, [0.0]) for _ in seeds]

        recipe = recipes.check(tiny.short_recipe(toy), "toy")
        stage: Any = types.SimpleNamespace(
            settings=recipe.ppo, processes=ALONE, shared=shared, engine=types.SimpleNamespace(decode=decode)
        )
        torch.manual_seed(seed)
        ppo._collect(stage, [VerifiableProblem(str(n), "What helps?", "rest") for n in range(4)])
        return asked

    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))
    assert len(set(seeds(1))) == 4


def arguments(**changes: Any) -> dict[str, Any]:
    loaded = LoadedBase(None, None, "plain", "some/model", "abc", packs=True)
    settings = {"quantization": "nf4", "dtype": "bfloat16", "max_length": 2048, "rank": 24, "seed": 3, **changes}
    return engine_arguments(loaded, **settings)


def test_arguments() -> None:
    made = arguments()
    assert (made["model"], made["revision"], made["trust_remote_code"]) == ("some/model", "abc", False)
    assert (made["quantization"], made["max_lora_rank"]) == ("bitsandbytes", 32)
    assert arguments(quantization="none")["quantization"] is None
    assert made["seed"] == 3
    with pytest.raises(BackendError, match=r"adapter\.rank: 1000; vLLM takes at most 512"):
        arguments(rank=1000)


def test_where_it_is_not_installed(shared: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    loaded = LoadedBase(types.SimpleNamespace(), shared.tokenizer, "plain", "folder", None, packs=True)
    with pytest.raises(BackendError, match=r"ppo\.rollout\.engine: vllm is not installed"):
        VllmEngine.open(loaded, quantization="nf4", dtype="bfloat16", max_length=64, rank=8, seed=3)


@pytest.mark.parametrize("core", [True, False])
def test_a_4_bit_base_needs_the_plugin_where_vllms_core_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, core: bool
) -> None:
    own = tmp_path / "vllm" / vllm_engine.OWN_4_BIT
    own.parent.mkdir(parents=True)
    (tmp_path / "vllm/__init__.py").touch()
    if core:
        own.touch()
    monkeypatch.syspath_prepend(tmp_path)
    vllm_engine.check("none")
    with pytest.raises(BackendError, match="vllm takes no DoRA adapter"):
        vllm_engine.check("none", dora=True)
    if core:
        vllm_engine.check("nf4")
    else:
        with pytest.raises(BackendError, match="takes a 4-bit base with vllm-bnb-plugin only"):
            vllm_engine.check("nf4")
        (tmp_path / "vllm_bnb_plugin.py").touch()
        importlib.invalidate_caches()
        vllm_engine.check("nf4")


def test_a_recipe_that_asks_for_it_says_so(toy: dict[str, str], shared: SharedBase, tmp_path: Path) -> None:
    """`train` stops before the first rollout on a machine without vLLM, and tells what to do."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.fail("vllm is installed here: this machine can run the engine itself")
    tree = tiny.short_recipe(toy)
    tree["ppo"]["rollout"]["engine"] = "vllm"
    recipe = recipes.check(tree, "with vllm")
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    shared.save("actor", tmp_path / "start")
    with pytest.raises(BackendError, match="vllm is not installed"):
        ppo_stage.assemble(recipe, run, Quiet(), tmp_path / "start")
