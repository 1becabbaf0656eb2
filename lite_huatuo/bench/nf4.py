"""NF4 on the card beside the CPU: codes, scales, restored weights, products; and what a product costs by rows."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional, matmul_4bit
from torch import Tensor

from lite_huatuo.bench import measure
from lite_huatuo.bench.place import Place

ROWS = (1, 8, 32, 128, 512, 4096)
TIMES = 10  # products that are timed together
WORST = 0.02  # of the largest number, between a product in NF4 and the same in bfloat16


def run(place: Place) -> dict[str, Any]:
    """Return how NF4 differs between card and CPU, and microseconds of products."""
    torch.manual_seed(0)
    weight = torch.randn(2048, 1024) * 0.02 if measure.cuda() else torch.randn(128, 128) * 0.02
    (codes, scales, restored), (codes_cpu, scales_cpu, restored_cpu) = (
        _made(weight.bfloat16(), device) for device in (str(measure.device()), "cpu")
    )
    difference = float((restored - restored_cpu).abs().max())
    products = [_product(place, *shape) for shape in _shapes(place)]
    return {
        "codes_that_differ": int((codes != codes_cpu).sum()),
        "scales_that_differ": int((scales != scales_cpu).sum()),
        "largest_difference": difference,
        "products": products,
        "holds": {
            "card and CPU restore the same weight": difference <= WORST * float(restored_cpu.abs().max()),
            "products are right": all(each["worst"] <= WORST for each in products),
        },
    }


def restored(weight: Any) -> Tensor:
    """Return what a 4-bit layer's weight (bitsandbytes' Params4bit) stands for, in float32."""
    return functional.dequantize_4bit(weight.data, weight.quant_state).float()


def _quantised(weight: Tensor) -> tuple[Tensor, Any]:
    return functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")


def _made(weight: Tensor, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight's 4-bit codes, its scales and what it is restored to, on the CPU."""
    packed, state = _quantised(weight.to(device))
    whole = packed.cpu().view(torch.uint8)
    codes = torch.stack([whole >> 4, whole & 15])
    return codes, state.absmax.cpu(), functional.dequantize_4bit(packed, state).float().cpu()


def _shapes(place: Place) -> list[tuple[str, int, int]]:
    """Return (name, out, in) of a layer's products."""
    shape = place.sized.shape
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return [("q", hidden, hidden), ("k", kv, hidden), ("gate", inner, hidden), ("down", hidden, inner)]


def _product(place: Place, name: str, out: int, inner: int) -> dict[str, Any]:
    """Return microseconds of a product by rows, in NF4 and in 16 bit, and the worst relative difference."""
    device, dtype = measure.device(), torch.bfloat16 if measure.cuda() else torch.float32
    packed, state = _quantised((torch.randn(out, inner, device=device) * 0.02).to(dtype))
    dense, worst, times = functional.dequantize_4bit(packed, state).to(dtype), 0.0, {}
    for rows in ROWS if measure.cuda() else ROWS[:2]:
        x = torch.randn(rows, inner, device=device, dtype=dtype)
        exact = x @ dense.t()
        worst = max(worst, float((matmul_4bit(x, packed, state) - exact).abs().max() / exact.abs().max()))
        times[str(rows)] = {
            "nf4": _microseconds(lambda x=x: matmul_4bit(x, packed, state)),
            "dense": _microseconds(lambda x=x: x @ dense.t()),
        }
    return {"layer": name, "shape": [out, inner], "microseconds": times, "worst": worst}


def _microseconds(work: Any) -> float:
    def many() -> None:
        for _ in range(TIMES):
            work()

    return round(measure.best(many) / TIMES * 1e6, 1)
