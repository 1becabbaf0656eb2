"""Rows packed end to end give what padded rows give, numbers and gradients; a critic on a trunk gives what a whole one
gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lite_huatuo.models import backends, packing
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.training.logprobs import collate
from lite_huatuo.training.rollout import reply_values

ROWS = [[60, 61, 62, 63, 64, 65, 66], [70], [80, 81], [90, 91, 92, 93]]
SHAPE = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip


def load(folder: str, quantization: str = "none") -> SharedBase:
    """A base with an actor that has been moved, so that its adapter matters."""
    shared = SharedBase.fresh(
        backends.load(folder, quantization=quantization), "actor", rank=4, alpha=8, targets="all-linear"
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in shared.parameters("actor").values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return shared


@pytest.fixture(scope="module")
def qwen(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen2 with random weights and the toy's tokenizer."""
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**SHAPE)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        source = Path(toy["model"]) / name
        if source.exists():
            (folder / name).write_bytes(source.read_bytes())
    return str(folder)


def states_and_gradients(shared: SharedBase, packs: bool) -> tuple[Tensor, list[Tensor]]:
    shared.packs = packs
    with shared.using("actor", learn=True):
        states = shared.states(ROWS)
        torch.manual_seed(1)
        (states * torch.randn(states.shape)).sum().backward()
    gradients = [p.grad.clone() for p in shared.parameters("actor").values()]
    for parameter in shared.parameters("actor").values():
        parameter.grad = None
    return states.detach(), gradients


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_packed_rows_equal_padded_ones(
    toy: dict[str, str], qwen: str, family: str, quantization: str, checkpointing: bool
) -> None:
    shared = load(toy["model"] if family == "llama" else qwen, quantization)
    assert shared.packs
    if checkpointing:
        shared.enable_checkpointing()
    packed, ours = states_and_gradients(shared, True)
    padded, theirs = states_and_gradients(shared, False)
    assert packed.shape == (sum(map(len, ROWS)), shared.hidden_size)
    assert_close(packed, padded, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert any(gradient.abs().max() > 0.01 for gradient in ours)


def test_no_padding_goes_through_the_network(toy: dict[str, str]) -> None:
    shared, seen = load(toy["model"]), []
    shared.body.layers[0].mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2].numel()))
    with shared.using("actor"), torch.no_grad():
        shared.states(ROWS)
    assert seen == [sum(map(len, ROWS))]


def test_rows_do_not_see_one_another(toy: dict[str, str]) -> None:
    shared = load(toy["model"])
    with shared.using("actor"), torch.no_grad():
        before = shared.states(ROWS)
        after = shared.states([[99] * 7, *ROWS[1:]])
    assert before[7:].equal(after[7:])
    assert not before[:7].equal(after[:7])


def test_padded_batches_are_what_they_were(toy: dict[str, str]) -> None:
    """The registered attention leaves every other use to transformers' SDPA: to the bit, left padding too."""
    shared = load(toy["model"])
    plain = AutoModelForCausalLM.from_pretrained(toy["model"], attn_implementation="sdpa").eval()
    ids = torch.tensor([[0, 0, 60, 61, 62], [70, 71, 72, 73, 74]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        for arguments in ({"attention_mask": mask}, {}):
            found = shared.causal(input_ids=ids, **arguments).logits
            assert_close(found, plain(input_ids=ids, **arguments).logits, rtol=0, atol=0)
        written = [
            model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
            for model in (shared.causal, plain)
        ]
    assert written[0].equal(written[1])


def test_sequences_are_found_by_their_position_ids() -> None:
    assert packing.sequence_lengths(torch.tensor([[0, 1, 2, 0, 0, 1]])) == [3, 1, 2]
    assert packing.sequence_lengths(torch.tensor([[0, 1, 2]])) == [3]
    assert packing.sequence_lengths(torch.tensor([[5]])) == [1]


def test_a_sliding_window_is_left_alone(toy: dict[str, str], tmp_path: Path) -> None:
    model = MistralForCausalLM._from_config(MistralConfig(**SHAPE, sliding_window=4), attn_implementation="sdpa")
    assert not packing.enable(model)
    assert model.config._attn_implementation == "sdpa"


# a critic on the reference's trunk


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_critic_on_a_trunk_equals_a_whole_one(qwen: str, tmp_path: Path, layers: int, checkpointing: bool) -> None:
    """Its lower layers are the reference's and its upper ones have been trained: run from the trunk or from the tokens,
    values and gradients are the same."""
    start = load(qwen)
    start.save("actor", tmp_path / "start")
    roles = dict.fromkeys(("reference", "critic"), tmp_path / "start")
    shared = SharedBase.from_adapters(backends.load(qwen, quantization="none"), roles, ("critic",))
    if checkpointing:
        shared.enable_checkpointing()
    own = shared.parameters("critic", top=layers)
    assert len(own) == 14 * layers  # seven linear layers, A and B
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    head = ValueHead(shared.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    batch = collate([[60, 61], [70, 71, 72]], [[80, 81, 1], [90, 1]], width=3, device="cpu")
    with shared.using("reference"), torch.no_grad():
        states, trunk = shared.states_and_trunk(batch.rows, layers)
        assert states.equal(shared.states(batch.rows))
    found = []
    for cached in (None, trunk):
        with shared.using("critic", learn=True):
            values = reply_values(shared, head, batch, cached, layers)
            (values**2).sum().backward()
        found.append((values.detach(), [parameter.grad.clone() for parameter in own.values()]))
        for parameter in shared.parameters("critic").values():
            parameter.grad = None
    (whole, theirs), (from_trunk, ours) = found
    assert_close(from_trunk, whole, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in ours)
