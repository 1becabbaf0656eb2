"""Weights quantised some rows at a time are those that bitsandbytes' own layer has, to the bit."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_huatuo.export import base_files, four_bit, tensor_parity
from lite_huatuo.export.four_bit import FourBit


def layers_own(weight: torch.Tensor, double: bool) -> torch.Tensor:
    """Return what a layer of bitsandbytes that quantised this weight computes with."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    packed = Params4bit(weight.clone(), requires_grad=False, compress_statistics=double, quant_type="nf4").to("cpu")
    return dequantize_4bit(packed.data, packed.quant_state)


@settings(max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.sampled_from([2, 20, 36, 48, 64, 100, 128, 192]),
    chunk=st.integers(1, 20_000),
    double=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pieces_give_the_whole_to_the_bit(height: int, width: int, chunk: int, double: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(height, width, generator=generator) * 10 ** torch.randn(height, 1, generator=generator)
    weight[height // 2] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_files, "CHUNK", chunk)
        cuts = four_bit.cuts((height, width))
    packed = FourBit((weight[start:stop] for start, stop in cuts), double_quantization=double)
    found = torch.cat([packed.rows(*cut) for cut in cuts])
    assert torch.equal(found, layers_own(weight, double))


def test_wide_weights_are_cut() -> None:
    assert len(four_bit.cuts((5632, 2048))) > 10


def test_equal_to_the_bit_is_told_from_equal_in_value() -> None:
    for count in (3, 4, 64):
        one = torch.arange(count).bfloat16()
        assert tensor_parity._same_bits(one, one.clone())
        assert not tensor_parity._same_bits(one, one + 1)
        assert not tensor_parity._same_bits(one, -one), "0 and -0 are other bits"
        assert not tensor_parity._same_bits(one, one.reshape(1, -1))
    spoiled = numpy.float32(3e38)
    assert tensor_parity._finite(torch.full((8,), spoiled)), "a sum that is too large is no fault"
    for bad in (float("inf"), float("-inf"), float("nan")):
        assert not tensor_parity._finite(torch.tensor([1.0, bad, spoiled, spoiled]))
    assert not tensor_parity._finite(torch.tensor([float("inf"), float("-inf")]))
