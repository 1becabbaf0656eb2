"""Is every tensor on the disk what peft would merge? Checked shard by shard, whatever the model's size.

A tensor that the adapter leaves alone must equal the base's, rounded, to the bit. A layer with a LoRA is built again
by peft some rows at a time (from weights as bitsandbytes makes them, where the promise is the model as trained), and
merged by peft; every element on the disk must be that sum, rounded once. Sums may be made in another order: where one
ends close to the middle between two neighbours, either will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files
from lite_huatuo.export.adapter_file import AdapterFile
from lite_huatuo.export.plan import Made, OutShard

SUMS = 1e-6  # how far float32 sums in another order may be apart, as a share of the largest weight of their row


class Checked(NamedTuple):
    """What a shard's check found: tensors, those with a LoRA, how many elements of these are the other neighbour."""

    tensors: int
    merged: int
    neighbours: int


class _Differs(Exception):
    """A tensor is not what it must be."""


@torch.no_grad()
def check(
    path: Path,
    shard: OutShard,
    base: Path,
    adapter: AdapterFile,
    four_bit: dict[str, bool],
    held: torch.dtype | None = None,
) -> Checked:
    """Compare a written shard with base + adapter; raise an ExportError that names the first wrong tensor.

    `four_bit`: {weight: double quantization} for the weights that the promise wants as the loader quantises them;
    `held`: the type the loader holds the others in, None where they are taken as they are stored.
    """
    source = _Source(base, adapter, four_bit, held)
    neighbours = merged = 0
    for name, made in shard.tensors.items():
        try:
            if name in adapter.loras:
                neighbours += _check_merged(path, name, made, source)
                merged += 1
            else:
                _check_alone(path, name, made, source)
        except _Differs:
            raise ExportError(
                f"{name}: the exported tensor is not what base + adapter gives"
                f"{_why(path, name, made)}; nothing was exported"
            ) from None
    return Checked(len(shard.tensors), merged, neighbours)


def _why(path: Path, name: str, made: Made) -> str:
    """Return a reason that can be told from the stored tensor alone."""
    finite = all(_finite(base_files.rows(path, name, *span)) for span in base_files.spans(made.info.shape))
    return "" if finite else f" ({made.info.dtype} cannot hold its values; export with --dtype bfloat16)"


def _check_alone(path: Path, name: str, made: Made, source: _Source) -> None:
    """Hold a tensor without LoRA against its source, rounded once."""
    rows = source.rows(name, made)
    for start, stop in base_files.spans(made.info.shape):
        found = base_files.rows(path, name, start, stop)
        if not _same_bits(found, rows(start, stop).to(made.info.dtype)) or not _finite(found):
            raise _Differs


def _check_merged(path: Path, name: str, made: Made, source: _Source) -> int:
    """Hold a merged layer against peft's merge; return how many elements are the other one of two neighbours."""
    neighbours = 0
    for start, stop, expected in _merged(name, made, source):
        found, nearest = base_files.rows(path, name, start, stop), expected.to(made.info.dtype)
        if not _finite(found):
            raise _Differs
        if not _same_bits(found, nearest):
            slack = SUMS * expected.abs().amax(1, keepdim=True)
            lowest, highest = (expected - slack).to(made.info.dtype), (expected + slack).to(made.info.dtype)
            if not bool(((lowest <= found) & (found <= highest)).all()):
                raise _Differs
            neighbours += int((found != nearest).sum())
    return neighbours


def _merged(name: str, made: Made, source: _Source) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, stop, rows of the layer as peft merges it, float32)."""
    state, rows = source.adapter.state(name), source.rows(name, made, torch.float32)
    layer: Any = None
    for start, stop in base_files.spans(made.info.shape):
        weight, part = rows(start, stop), _rows_of(state, start, stop)
        if layer is None:
            layer = _peft_layer(_bare(weight, part), source.adapter, name, part)
        else:
            _exchange(layer, weight, part)
        layer.merge()
        layer.merged_adapters.clear()  # the next rows come unmerged
        yield start, stop, layer.base_layer.weight.data


class _Source(NamedTuple):
    """What the exported tensors are made of."""

    base: Path
    adapter: AdapterFile
    four_bit: dict[str, bool]
    held: torch.dtype | None

    def rows(self, name: str, made: Made, dtype: torch.dtype | None = None) -> Callable[[int, int], Tensor]:
        """Return what gives rows of a tensor before its LoRA: the base's, or those that the adapter brings."""
        if name in self.adapter.replaced:
            whole = self.adapter.replacement(name)
        elif name in self.four_bit:
            whole = self._as_loaded(made, self.four_bit[name])
        else:
            return lambda start, stop: base_files.rows(self.base, made.source, start, stop, dtype, held=self.held)
        return lambda start, stop: whole[start:stop].to(dtype or whole.dtype)

    def _as_loaded(self, made: Made, double_quantization: bool) -> Tensor:
        """Return a weight as bitsandbytes quantises and dequantises it, whole."""
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Params4bit

        stored = base_files.rows(self.base, made.source, 0, made.stored.shape[0], torch.float32, held=self.held)
        packed: Any = Params4bit(stored, requires_grad=False, compress_statistics=double_quantization, quant_type="nf4")
        del stored
        packed = packed.to("cpu")
        return dequantize_4bit(packed.data, packed.quant_state).to(self.held or torch.float32)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """True where two tensors have the same bytes; torch.equal takes twenty times as long over 16-bit floats."""
    return one.shape == other.shape and numpy.array_equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> numpy.ndarray:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return data.view(numpy.uint64) if data.nbytes % 8 == 0 else data


def _finite(tensor: Tensor) -> bool:
    """True where no element is infinite or no number: such a one spoils the sum. A sum may also just be too large."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _rows_of(state: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """Return a LoRA cut to some rows of its weight: outputs of a layer, tokens of an embedding."""
    cut = {"lora_A.weight": slice(None), "lora_embedding_B": slice(None)}
    tokens = (slice(None), slice(start, stop))
    return {
        key: value[tokens if key == "lora_embedding_A" else cut.get(key, slice(start, stop))]
        for key, value in state.items()
    }


def _exchange(layer: Any, weight: Tensor, state: dict[str, Tensor]) -> None:
    """Give a layer of peft's other rows; to build one for each piece would take longer than to merge it."""
    layer.base_layer.weight.data = weight
    for key, value in state.items():
        part, _, inner = key.partition(".")
        kept = getattr(layer, part)["default"]
        (kept.weight if inner or part == "lora_magnitude_vector" else kept).data = value.float()


def _bare(weight: Tensor, state: dict[str, Tensor]) -> nn.Module:
    """Return the layer of a weight: an embedding, or a linear layer."""
    if "lora_embedding_A" in state:
        return nn.Embedding.from_pretrained(weight)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _peft_layer(layer: nn.Module, adapter: AdapterFile, name: str, state: dict[str, Tensor]) -> nn.Module:
    """Return one layer with its LoRA, made by peft."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    holder: Any = nn.ModuleDict({"layer": layer})
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
