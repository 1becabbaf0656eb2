"""Is every tensor on the disk what peft would compute? Checked shard by shard, whatever the model's size.

A tensor that the adapter leaves alone must equal the base's, rounded, to the bit. A layer with a LoRA is built again as
peft builds it (a 4-bit layer where the promise is the model as trained) and asked with inputs along the LoRA's own
directions, where what was learned is loud and rounding is not; the stored weight must answer the same, but for what one
rounding may cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files
from lite_huatuo.export.adapter_file import AdapterFile
from lite_huatuo.export.plan import Made, OutShard

PROBES = 8  # inputs per layer
LEAST_UNIT = 1e-5  # relative error granted to float32 products; one rounding to bfloat16 costs up to 4e-3


class Checked(NamedTuple):
    """What a shard's check found: tensors, those with a LoRA, and the largest share of the error that was granted."""

    tensors: int
    merged: int
    worst: float
    worst_tensor: str


@torch.no_grad()
def check(path: Path, shard: OutShard, base: Path, adapter: AdapterFile, four_bit: dict[str, bool]) -> Checked:
    """Compare a written shard with base + unmerged adapter; raise an ExportError that names the first wrong tensor.

    `four_bit`: {weight: double quantization} for the weights that the promise wants as the loader quantises them.
    """
    worst, worst_tensor, merged = 0.0, "", 0
    for name, made in shard.tensors.items():
        if name in adapter.loras:
            share = _with_lora(path, name, made, base, adapter, four_bit)
            merged += 1
        else:
            share = 0.0 if _equal(path, name, made, base, adapter, four_bit) else float("inf")
        if not share <= 1:
            raise ExportError(
                f"{name}: the exported tensor is not what base + adapter gives"
                f"{_why(path, name, made)}; nothing was exported"
            )
        if share > worst:
            worst, worst_tensor = share, name
    return Checked(len(shard.tensors), merged, worst, worst_tensor)


def _why(path: Path, name: str, made: Made) -> str:
    """Return a reason that can be told from the stored tensor alone."""
    finite = all(_finite(base_files.rows(path, name, *span)) for span in base_files.spans(made.info.shape))
    return "" if finite else f" ({made.info.dtype} cannot hold its values; export with --dtype bfloat16)"


def _equal(path: Path, name: str, made: Made, base: Path, adapter: AdapterFile, four_bit: dict[str, bool]) -> bool:
    """True where a tensor without LoRA equals its source, rounded once."""
    whole = None
    if name in adapter.replaced:
        whole = adapter.replacement(name)
    elif name in four_bit:
        stored = base_files.rows(base, made.source, 0, made.stored.shape[0], torch.float32)
        whole = _dequantised(_linear_4bit(stored, four_bit[name]))
    for start, stop in base_files.spans(made.info.shape):
        expected = base_files.rows(base, made.source, start, stop) if whole is None else whole[start:stop]
        found = base_files.rows(path, name, start, stop)
        if not _same_bits(found, expected.to(made.info.dtype)) or not _finite(found):
            return False
    return True


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """True where two tensors have the same bytes; torch.equal takes twenty times as long over 16-bit floats."""
    return one.shape == other.shape and numpy.array_equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> numpy.ndarray:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return data.view(numpy.uint64) if data.nbytes % 8 == 0 else data


def _finite(tensor: Tensor) -> bool:
    """True where no element is infinite or no number: such a one spoils the sum. A sum may also just be too large."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _with_lora(path: Path, name: str, made: Made, base: Path, adapter: AdapterFile, four_bit: dict[str, bool]) -> float:
    """Return the error of a merged layer as a share of what is granted."""
    state = adapter.state(name)
    if "lora_embedding_A" in state:
        return _embedding(path, name, made, base, adapter)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(PROBES, len(state["lora_A.weight"]), generator=generator) @ state["lora_A.weight"].float()
    inputs /= inputs.norm(dim=1, keepdim=True).clamp_min(1e-30)
    error = granted = 0.0
    for start, stop, expected in _expected(name, made, base, adapter, four_bit, inputs):
        found = base_files.rows(path, name, start, stop, torch.float32)
        error += (inputs @ found.T - expected).square().sum().item()
        granted += _granted(found, inputs, made.info.dtype)
    return (error / granted) ** 0.5 if granted else 0.0


def _expected(
    name: str, made: Made, base: Path, adapter: AdapterFile, four_bit: dict[str, bool], inputs: Tensor
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, stop, what base + unmerged LoRA answers there, (inputs, rows)) for all rows of a layer.

    What is quantised is quantised as a whole; other layers are built some rows at a time.
    """
    state, cuts = adapter.state(name), base_files.spans(made.info.shape)
    if name in four_bit:
        stored = _source_rows(name, made, base, adapter, 0, made.info.shape[0])
        answers = _peft_layer(_linear_4bit(stored, four_bit[name]), adapter, name, state)(inputs)
        del stored
        yield from ((start, stop, answers[:, start:stop]) for start, stop in cuts)
    else:
        layer: Any = None
        for start, stop in cuts:
            stored, part = _source_rows(name, made, base, adapter, start, stop), _rows_of(state, start, stop)
            if layer is None:
                layer = _peft_layer(_linear(stored), adapter, name, part)
            else:
                _exchange(layer, stored, part)
            yield start, stop, layer(inputs)


def _granted(found: Tensor, inputs: Tensor, dtype: torch.dtype) -> float:
    """Return the squared error that rounding each weight once may cost, doubled: Σ x_j² Σ_i (2 u w_ij)²."""
    unit = max(torch.finfo(dtype).eps / 2, LEAST_UNIT)
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps / 2
    columns = found.square().sum(0) * unit**2 + len(found) * smallest**2
    return 4 * (inputs.square() @ columns).sum().item()


def _embedding(path: Path, name: str, made: Made, base: Path, adapter: AdapterFile) -> float:
    """Return the same for an embedding, asked for every token of some evenly spaced pieces."""
    error = granted = 0.0
    state = adapter.state(name)
    for start, stop in base_files.spans(made.info.shape):
        stored = _source_rows(name, made, base, adapter, start, stop)
        layer = nn.Embedding.from_pretrained(stored)
        part = {**state, "lora_embedding_A": state["lora_embedding_A"][:, start:stop]}
        expected = _peft_layer(layer, adapter, name, part)(torch.arange(stop - start))
        found = base_files.rows(path, name, start, stop, torch.float32)
        error += (found - expected).square().sum().item()
        granted += _granted(found, torch.ones(1, found.shape[1]), made.info.dtype)
    return (error / granted) ** 0.5 if granted else 0.0


def _source_rows(name: str, made: Made, base: Path, adapter: AdapterFile, start: int, stop: int) -> Tensor:
    """Return rows of the weight under the LoRA, float32: the base's, or those that the adapter brings."""
    if name in adapter.replaced:
        return adapter.replacement(name)[start:stop].float()
    return base_files.rows(base, made.source, start, stop, torch.float32)


def _rows_of(state: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """Return a LoRA cut to some output rows of its layer."""
    return {key: value if key == "lora_A.weight" else value[start:stop] for key, value in state.items()}


def _exchange(layer: Any, weight: Tensor, state: dict[str, Tensor]) -> None:
    """Give a layer of peft's other output rows; to build one for each piece would take longer than to ask it."""
    layer.base_layer.weight.data = weight
    layer.lora_B["default"].weight.data = state["lora_B.weight"].float()
    if "lora_magnitude_vector" in state:
        layer.lora_magnitude_vector["default"].weight.data = state["lora_magnitude_vector"].float()


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _linear_4bit(weight: Tensor, double_quantization: bool) -> nn.Module:
    """Return bitsandbytes' own layer, quantised as it quantises itself."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    layer: Any = Linear4bit(
        weight.shape[1], weight.shape[0], bias=False, compute_dtype=torch.float32, quant_type="nf4", device="meta"
    )
    packed: Any = Params4bit(weight, requires_grad=False, compress_statistics=double_quantization, quant_type="nf4")
    layer.weight = packed.to("cpu")
    layer.support_avx512bf16_for_cpu = False  # else it would repack its weights for products in bfloat16
    return layer


def _dequantised(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def _peft_layer(layer: nn.Module, adapter: AdapterFile, name: str, state: dict[str, Tensor]) -> nn.Module:
    """Return one layer with its unmerged LoRA, made by peft."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    holder: Any = nn.ModuleDict({"layer": layer})
    holder.is_loaded_in_4bit = type(layer).__name__ == "Linear4bit"  # peft asks the model, not the layer
    config = LoraConfig(
        r=adapter.rank(name),
        lora_alpha=adapter.alpha(name),  # type: ignore[arg-type]
        target_modules=["layer"],
        use_rslora=bool(adapter.config.get("use_rslora")),
        use_dora=bool(adapter.config.get("use_dora")),
        lora_dropout=0.0,
    )
    inject_adapter_in_model(config, holder)
    loaded: Any = set_peft_model_state_dict(holder, {f"layer.{key}": value for key, value in state.items()})
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    return holder.eval()["layer"]
