"""The arithmetic of the planner against the things themselves: transformers' own counts, peft's, bitsandbytes' bytes,
the cache's tensors, what autograd keeps."""

from __future__ import annotations

import contextlib
import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.slots import Slots
from lite_huatuo.planning import config_file, memory, models, phases
from lite_huatuo.planning.memory import Numbers
from lite_huatuo.planning.models import Shape
from lite_huatuo.training import decoding, logprobs, sft

STUDENTS = {
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}
# bytes of the whole base in NF4 with double quantization, 16 bit beside it, from the published sizes by hand:
# 0.5 + 1/64 + 4/16384 a weight, 1092 a matrix (tables), 2 a number that is not quantised
BYTES = {
    "Qwen/Qwen2.5-7B-Instruct": 5_547_065_104,
    "meta-llama/Llama-3.1-8B-Instruct": 5_702_540_160,
}


def shape_of(name: str) -> Shape:
    return models.from_config(*config_file.find(name))


@pytest.mark.parametrize("name", STUDENTS)
def test_parameters_of_the_students_are_exact(name: str) -> None:
    shape = shape_of(name)
    assert shape.parameters == STUDENTS[name]
    config = json.loads((resources.files(config_file.PACKAGE) / f"{name.replace('/', '--')}.json").read_text("utf-8"))
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert network.num_parameters() == shape.parameters
    quantised = sum(m.weight.numel() for n, m in network.named_modules() if n.endswith("_proj"))
    assert quantised == shape.linear_weights


@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_a_quantised_student(name: str) -> None:
    assert sum(memory.base(shape_of(name), Numbers(2)).values()) == BYTES[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
        {"model_type": "qwen3", "head_dim": 32},
        {"model_type": "mistral", "tie_word_embeddings": True},
        {"model_type": "qwen2", "num_key_value_heads": 4},
    ],
    ids=lambda changes: changes["model_type"],
)
def test_parameters_of_other_families(changes: dict) -> None:
    config = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 100,
        "tie_word_embeddings": False,
        **changes,
    }
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert models.from_config(config, "here").parameters == network.num_parameters()


def test_what_cannot_be_planned_is_told() -> None:
    with pytest.raises(BackendError, match="here: model_type gemma3: memory can be predicted for llama, mistral"):
        models.from_config({"model_type": "gemma3"}, "here")
    with pytest.raises(BackendError, match="here: no num_hidden_layers"):
        models.from_config({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}, "here")
    with pytest.raises(BackendError, match=r"adapter\.targets: lm_head"):
        models.lora(8, ["q_proj", "lm_head"])


def opened(toy: dict[str, str], **base: object) -> tuple[SharedBase, Shape]:
    loaded = backends.load(toy["model"], **base)  # type: ignore[arg-type]
    shared = SharedBase.fresh(loaded, "actor", rank=8, alpha=16, targets="all-linear")
    return shared, models.from_config(json.loads((Path(toy["model"]) / "config.json").read_text()), "toy")


@pytest.mark.parametrize(("targets", "dora"), [("all-linear", False), (["q_proj", "down_proj"], True)])
def test_adapters_have_pefts_own_count(toy: dict[str, str], targets: str | list[str], dora: bool) -> None:
    loaded = backends.load(toy["model"], quantization="none")
    shared = SharedBase.fresh(loaded, "actor", rank=6, alpha=12, targets=targets, dora=dora)
    shape = models.from_config(json.loads((Path(toy["model"]) / "config.json").read_text()), "toy")
    lora = models.lora(6, targets, dora=dora)
    assert lora.parameters(shape) == sum(p.numel() for p in shared.parameters("actor").values())
    assert lora.parameters(shape, 1) == sum(p.numel() for p in shared.parameters("actor", top=1).values())
    assert memory.adapter(lora, shape) == sum(p.nbytes for p in shared.parameters("actor").values())


@pytest.mark.parametrize("double", [True, False])
def test_quantised_bytes_are_those_of_bitsandbytes(toy: dict[str, str], double: bool) -> None:
    network = backends.load(toy["model"], double_quantization=double).model
    storages = {}
    for module in network.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            parts = [module.weight.data, state.absmax, state.code]
            parts += [state.offset, state.state2.absmax, state.state2.code] if double else []
            storages |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in parts}
    others = sum(p.nbytes for p in network.parameters() if p.dtype == torch.float32)
    shape = models.from_config(network.config.to_dict(), "toy")
    parts = memory.base(shape, Numbers(4, double_quantization=double))
    assert parts["base, 4 bit"] + parts["quantisation constants"] == sum(storages.values())
    assert parts["base, not quantised"] == others


@pytest.mark.parametrize("name", ["adamw", "paged_adamw_8bit"])
def test_optimiser_states_are_as_large(toy: dict[str, str], name: str) -> None:
    from lite_huatuo.training.ppo_update import _optimizer

    loaded = backends.load(toy["model"], quantization="none")
    shared = SharedBase.fresh(loaded, "actor", rank=64, alpha=16, targets="all-linear")  # above and below 4096 numbers
    parameters = list(shared.parameters("actor").values())
    optimizer = _optimizer(name)(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
    found = sum(state[key].nbytes for state in optimizer.state.values() for key in kept if key in state)
    shape = models.from_config(loaded.model.config.to_dict(), "toy")
    assert memory.optimizer(name, models.lora(64, "all-linear"), shape) == found


@pytest.mark.parametrize(
    ("dtype", "autocast", "rows"),
    [("float32", False, 1), ("float32", False, 3), ("bfloat16", False, 3), ("bfloat16", True, 3)],
)
def test_what_a_layer_keeps_is_what_autograd_saves(toy: dict[str, str], dtype: str, autocast: bool, rows: int) -> None:
    """Every storage saved for backward, except the network's own and the adapters' casts, counted once."""
    shared, shape = opened(toy, compute_dtype=dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*shared.peft.parameters(), *shared.peft.buffers())}
    for module in shared.peft.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            own |= {getattr(state, key).untyped_storage().data_ptr() for key in ("absmax", "code", "offset")}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    cast = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with shared.using("actor", learn=True), hooks, cast:
        shared.states([list(range(5, 45))] * rows)
    sizes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    if autocast:  # the adapters in 16 bit, but for those that make rank-r products of what needs no gradient
        sizes -= memory.adapter(models.lora(8, "all-linear"), shape) // 2 - 3 * 2 * 8 * shape.hidden
    width, lora = (4 if dtype == "float32" else 2), models.lora(8, "all-linear")
    layer = memory.layer_kept(shape, lora, width, autocast=autocast, packed=rows > 1)
    # the first norm's input needs no gradient; the last norm's takes its place
    assert sizes == (shape.layers * layer + memory.rotary(shape, width)) * 40 * rows


def test_the_cache_is_as_large_as_the_slots(toy: dict[str, str]) -> None:
    shared, shape = opened(toy)
    seen: list[Slots] = []

    class Watched(Slots):
        def __init__(self, slots: int, room: int) -> None:
            super().__init__(slots, room)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch, shared.using("actor"):
        patch.setattr(decoding, "Slots", Watched)
        never = shared.tokenizer.pad_id
        decoding.decode(
            shared,
            [[5] * 20, [6] * 9, [7] * 12],
            max_reply_length=110,
            batch_size=3,
            temperature=None,
            choose=lambda x, rows, places: torch.full((len(x),), never),
        )
    (slots,) = seen
    tensors = [*slots._keys, *slots._values]
    room = memory.room(20, 110)
    assert slots.room == room
    assert sum(tensor.nbytes for tensor in tensors) == memory.cache(shape, 4, rows=3, room=room)


def test_constants_are_those_of_the_code() -> None:
    assert memory.LOGITS_AT_ONCE == logprobs.CHUNK_NUMBERS
    assert memory.SFT_TILE_TOKENS_ON_CPU == sft.TILE_TOKENS
    assert phases.READ_TOKENS == decoding.READ_TOKENS


def test_the_tile_is_that_of_trls_fused_head() -> None:
    try:
        from trl.kernels import chunked_logprob
    except ImportError:  # before 1.15: docs/planning.md says so
        from trl.trainer import sft_trainer

        assert sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE == 256
        return
    from trl.trainer import utils

    assert memory.SFT_TILE_TOKENS == chunked_logprob.TOKEN_CHUNK_SIZE
    assert memory.SFT_TILE_WORDS == utils._CHUNKED_LOGPROB_CHUNK_SIZE


SHAPE = shape_of("Qwen/Qwen2.5-7B-Instruct")
CHOICES = st.fixed_dictionaries(
    {
        "rank": st.integers(1, 128),
        "query": st.integers(8, 1024),
        "reply": st.integers(8, 4096),
        "max_length": st.integers(64, 4096),
        "sft_rows": st.integers(1, 16),
        "generated": st.integers(1, 64),
        "microbatch_tokens": st.integers(64, 16384),
        "layers": st.none() | st.integers(1, 27),
        "checkpointing": st.booleans(),
    }
)


def totals(choice: dict) -> dict[str, int]:
    chosen = phases.Settings(
        gpu=True,
        numbers=Numbers(2),
        lora=models.lora(choice["rank"], "all-linear"),
        max_length=choice["max_length"],
        query=choice["query"],
        reply=choice["reply"],
        sft_rows=choice["sft_rows"],
        sft_optimizer="adamw",
        sft_checkpointing=choice["checkpointing"],
        autocast=True,
        episodes=64,
        minibatches=1,
        generated=choice["generated"],
        top_p=1.0,
        microbatch_tokens=choice["microbatch_tokens"],
        ppo_optimizer="adamw",
        ppo_checkpointing=choice["checkpointing"],
        trunk_layers=choice["layers"],
    )
    return {phase.name: phase.total for phase in phases.phases(SHAPE, chosen)}


GROWING = {
    "rank": ("SFT", "rollout", "scoring", "update", "export"),
    "max_length": ("SFT",),
    "sft_rows": ("SFT",),
    "generated": ("rollout",),
}


@settings(max_examples=60)
@given(CHOICES, st.sampled_from(sorted(GROWING)), st.integers(1, 64))
def test_more_never_takes_less(choice: dict, key: str, more: int) -> None:
    before, after = totals(choice), totals({**choice, key: choice[key] + more})
    assert all(after[name] >= size for name, size in before.items())
    assert all(after[name] > before[name] for name in GROWING[key])


@settings(max_examples=60)
@given(CHOICES)
def test_checkpointing_never_takes_more(choice: dict) -> None:
    with_it, without = (totals({**choice, "checkpointing": value}) for value in (True, False))
    assert all(with_it[name] <= without[name] for name in ("SFT", "update"))


@pytest.mark.parametrize(("query", "reply"), [(10, 40), (100, 600), (512, 1300)])
def test_a_longer_row_never_makes_a_smaller_cache(query: int, reply: int) -> None:
    sizes = [memory.room(query, reply + more) for more in range(0, 400, 7)]
    assert all(size >= query + reply + 7 * n - 1 for n, size in enumerate(sizes))
    assert all(size <= (query + reply + 7 * n) * 3 / 2 for n, size in enumerate(sizes))
