"""Merging, on one layer: the merged weight gives what base and adapter give, and an export writes that weight."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lite_huatuo.bench import assembled, nf4
from lite_huatuo.bench.place import Place
from lite_huatuo.export.four_bit import FourBit

LAYERS = ("self_attn.q_proj", "mlp.down_proj")
WORST = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}  # of the largest number


def run(place: Place) -> dict[str, Any]:
    """Return for two layers of the first block how far merged and unmerged, exported and loaded are apart."""
    stage = assembled.stage(place)
    figures: dict[str, Any] = {"merged_beside_unmerged": {}, "exported_beside_loaded": {}}
    allowed = WORST[stage.shared.lm_head.weight.dtype]
    for name in LAYERS:
        layer = stage.shared.body.layers[0].get_submodule(name)
        weight = nf4.restored(layer.base_layer.weight)
        with stage.shared.using("actor"):
            figures["merged_beside_unmerged"][name] = _merged(layer, weight, stage.shared.lm_head.weight.dtype)
        figures["exported_beside_loaded"][name] = _exported(place, name, weight)
    merged, exported = (max(found.values()) for found in figures.values())
    figures["holds"] = {
        "a merged weight gives what base and adapter give": merged <= allowed,
        "an export writes the weight that was trained": exported <= allowed,
    }
    return figures


@torch.no_grad()
def _merged(layer: Any, weight: Tensor, dtype: torch.dtype) -> float:
    """Return the worst difference of a layer's products, relative to the largest number; `layer` is peft's."""
    base = layer.base_layer
    x = torch.randn(1, 64, base.in_features, device=weight.device, dtype=dtype)
    unmerged = layer(x).float()
    a, b = layer.lora_A["actor"].weight.float(), layer.lora_B["actor"].weight.float()
    merged = x.float() @ (weight + layer.scaling["actor"] * (b @ a)).t()
    merged = merged if base.bias is None else merged + base.bias.float()
    return float((unmerged - merged).abs().max() / merged.abs().max())


def _exported(place: Place, name: str, weight: Tensor) -> float:
    """Return the worst difference between the loaded 4-bit weight and the one that an export makes on the CPU."""
    key = f"model.layers.0.{name}.weight"
    index = json.loads((place.base / "model.safetensors.index.json").read_text())["weight_map"]
    with safe_open(place.base / index[key], "pt") as file:
        stored = file.get_tensor(key).float()
    made = FourBit([stored], double_quantization=place.recipe().base.double_quantization).rows(0, len(stored))
    return float((made - weight.cpu()).abs().max() / made.abs().max())
