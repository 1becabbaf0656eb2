"""The traps of several adapters on one base: silent wrong gradients, moved references, repacked weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lite_huatuo.errors import BackendError, CheckpointError
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import BASE, SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training.logprobs import collate
from lite_huatuo.training.rollout import reply_logprobs, reply_values

QUERIES = [[2, 50, 60, 3], [2, 51, 61, 71, 81, 3], [2, 52, 3]]
REPLIES = [[90, 91, 92, 1], [93, 94], [95, 96, 97]]


@pytest.fixture
def shared(toy: dict[str, str], toy_run: RunDir) -> SharedBase:
    adapter = toy_run.final("sft")
    return SharedBase.from_adapters(
        backends.load(toy["model"]), {"reference": adapter, "actor": adapter, "critic": adapter}, ("actor", "critic")
    )


@pytest.fixture(params=[False, True], ids=["plain", "checkpointing"])
def checkpointing(request: pytest.FixtureRequest, shared: SharedBase) -> bool:
    if request.param:
        shared.enable_checkpointing()
    return request.param


def batch(shared: SharedBase):  # type: ignore[no-untyped-def]
    return collate(QUERIES, REPLIES, width=4, device="cpu")


def gradients(shared: SharedBase, name: str) -> dict[str, torch.Tensor]:
    found = {key: p.grad.clone() for key, p in shared.parameters(name).items() if p.grad is not None}
    for parameter in shared.parameters(name).values():
        parameter.grad = None
    return found


def test_base_really_is_four_bit(shared: SharedBase) -> None:
    import bitsandbytes

    layers = [m for m in shared.causal.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14, "7 linear layers in each of 2 blocks"
    assert all(layer.weight.dtype == torch.uint8 and layer.weight.quant_state.nested for layer in layers)


def test_three_adapters_start_equal_and_the_base_differs(shared: SharedBase) -> None:
    logprobs = {}
    for name in ("reference", "actor", "critic", BASE):
        with shared.using(name), torch.no_grad():
            logprobs[name] = reply_logprobs(shared, batch(shared), temperature=1.0)[0]
    assert logprobs["actor"].equal(logprobs["reference"])
    assert logprobs["critic"].equal(logprobs["reference"])
    assert not logprobs[BASE].equal(logprobs["reference"]), "without adapters it is the base, not the SFT policy"


def test_only_the_adapter_in_use_gets_a_gradient(shared: SharedBase, checkpointing: bool) -> None:
    with shared.using("actor", learn=True):
        reply_logprobs(shared, batch(shared), temperature=1.0)[0].sum().backward()
    assert all(p.grad is not None for p in shared.parameters("actor").values())
    assert any(p.grad.abs().sum() > 0 for p in shared.parameters("actor").values())
    assert all(p.grad is None for name in ("critic", "reference") for p in shared.parameters(name).values())


def test_gradients_are_those_of_the_dequantised_network_even_after_evaluation(shared: SharedBase) -> None:
    """bitsandbytes repacks weights for inference on some CPUs and then passes no gradient through them."""
    with shared.using("actor"), torch.no_grad():
        reply_logprobs(shared, batch(shared), temperature=1.0)  # an evaluation first
    with shared.using("actor", learn=True):
        reply_logprobs(shared, batch(shared), temperature=1.0)[0].sum().backward()
    found = gradients(shared, "actor")
    import bitsandbytes

    for module in shared.causal.modules():
        for key, layer in list(module.named_children()):
            if isinstance(layer, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                plain.weight.data = weight.to(torch.float32)
                setattr(module, key, plain)
    with shared.using("actor", learn=True):
        reply_logprobs(shared, batch(shared), temperature=1.0)[0].sum().backward()
    expected = gradients(shared, "actor")
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)


def test_keeping_dequantised_weights_changes_nothing(shared: SharedBase, toy: dict[str, str], toy_run: RunDir) -> None:
    kept = SharedBase.from_adapters(
        backends.load(toy["model"], keep_dequantised=True), {"actor": toy_run.final("sft")}, ("actor",)
    )
    found = []
    for each in (shared, kept):
        with each.using("actor", learn=True):
            logprobs, _ = reply_logprobs(each, batch(each), temperature=1.0)
            logprobs.sum().backward()
        found.append((logprobs, gradients(each, "actor")))
    assert found[0][0].equal(found[1][0])
    for key in found[0][1]:
        torch.testing.assert_close(found[0][1][key], found[1][1][key])


def test_checkpointing_changes_no_gradient(shared: SharedBase) -> None:
    results = []
    for _ in range(2):
        with shared.using("actor", learn=True):
            reply_logprobs(shared, batch(shared), temperature=1.0)[0].sum().backward()
        results.append(gradients(shared, "actor"))
        shared.enable_checkpointing()
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key])


def test_checkpointing_is_on_again_after_a_generate_that_switches_it_off(shared: SharedBase) -> None:
    """unsloth's `generate` clears the flags, and sets them again only for a network that was in training mode."""

    def kept_and_gradients() -> tuple[int, dict[str, torch.Tensor]]:
        kept: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with shared.using("actor", learn=True), hooks:
            reply_logprobs(shared, batch(shared), temperature=1.0)[0].sum().backward()
        return len(kept), gradients(shared, "actor")

    whole, expected = kept_and_gradients()
    shared.enable_checkpointing()
    checkpointed, _ = kept_and_gradients()
    assert checkpointed < whole / 2
    for module in shared.causal.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False
    kept, found = kept_and_gradients()
    assert kept == checkpointed
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_learning_without_checkpointing_keeps_it_off(shared: SharedBase) -> None:
    with shared.using("actor", learn=True):
        assert not any(getattr(module, "gradient_checkpointing", False) for module in shared.causal.modules())


def test_backward_outside_its_adapter_is_an_error_not_a_wrong_gradient(shared: SharedBase, checkpointing: bool) -> None:
    with shared.using("actor", learn=True):
        loss = reply_logprobs(shared, batch(shared), temperature=1.0)[0].sum()
    with shared.using("critic", learn=True), pytest.raises(RuntimeError, match="backward of actor while critic"):
        loss.backward()


def test_using_nests_and_restores_also_after_an_error(shared: SharedBase) -> None:
    with shared.using("actor"):
        with shared.using("critic"):
            assert shared.active == "critic"
        assert shared.active == "actor"

    def fail() -> None:
        with shared.using("actor", learn=True):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shared.active == BASE
    assert not shared.peft.training


def test_switching_keeps_requires_grad(shared: SharedBase) -> None:
    for name in ("actor", "reference", "critic", BASE):
        with shared.using(name):
            pass
    assert all(p.requires_grad for name in ("actor", "critic") for p in shared.parameters(name).values())
    assert not any(p.requires_grad for p in shared.parameters("reference").values())


def test_our_switch_does_what_pefts_own_does(shared: SharedBase) -> None:
    """Pins the private names that `_switch` sets."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in shared.parameters("critic").values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    b = batch(shared)
    for name in ("critic", "actor"):
        with shared.using(name), torch.no_grad():
            ours = shared.states(b.rows)
        shared.peft.base_model.enable_adapter_layers()
        shared.peft.set_adapter(name)
        with torch.no_grad():
            assert ours.equal(shared.states(b.rows))
    with shared.using(BASE), torch.no_grad():
        ours = shared.states(b.rows)
    with shared.peft.disable_adapter(), torch.no_grad():
        assert ours.equal(shared.states(b.rows))


def test_the_critic_never_runs_lm_head(shared: SharedBase) -> None:
    calls = []
    shared.lm_head.register_forward_hook(lambda *_: calls.append(1))
    head = ValueHead(shared.hidden_size)
    with shared.using("critic"), torch.no_grad():
        values = reply_values(shared, head, batch(shared))
    assert values.shape == (3, 4)
    assert not calls


def test_value_head_is_float32_whatever_the_network(shared: SharedBase) -> None:
    head = ValueHead(8)
    assert head(torch.randn(2, 3, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_save_and_load_to_the_bit(shared: SharedBase, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in shared.parameters("actor").values():
            parameter.add_(torch.randn_like(parameter))
    saved = {key: p.detach().clone() for key, p in shared.parameters("actor").items()}
    shared.save("actor", tmp_path / "somewhere")
    with torch.no_grad():
        for parameter in shared.parameters("actor").values():
            parameter.zero_()
    shared.load("actor", tmp_path / "somewhere")
    assert all(p.equal(saved[key]) for key, p in shared.parameters("actor").items())
    assert sorted(path.name for path in (tmp_path / "somewhere").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_folder_without_an_adapter_is_told(toy: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is missing"):
        SharedBase.from_adapters(backends.load(toy["model"]), {"actor": tmp_path}, ())


def test_unknown_target_modules_are_told(toy: dict[str, str]) -> None:
    with pytest.raises(BackendError, match=r"adapter\.targets"):
        SharedBase.fresh(backends.load(toy["model"]), "actor", rank=4, alpha=4, targets=["no_such_layer"])
