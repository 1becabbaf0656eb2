"""A weight in NF4 as the loader makes it, packed and dequantised some rows at a time.

bitsandbytes takes a whole weight and holds it several times over in float32. Its blocks of 64 elements know nothing of
each other, except where their scales are quantised too: those are collected, and quantised as one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lite_huatuo.export import base_files

BLOCK = 64  # elements that share a scale
SCALES = 256  # scales that share a scale of their own


def cuts(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (start, stop) of the rows that are worked on at once.

    Where blocks do not end with rows it is all of them: bitsandbytes 0.50's CPU code takes some scales from the wrong
    block there, which ones follows from the whole, and the model was trained with what that gives.
    """
    return [(0, shape[0])] if shape[-1] % BLOCK else list(base_files.spans(shape))


class FourBit:
    """One quantised weight: half a byte an element, and a float32 scale for each block."""

    def __init__(self, pieces: Iterable[Tensor], *, double_quantization: bool) -> None:
        """Quantise a weight given as the pieces that `cuts` names, float32 (n, in)."""
        from bitsandbytes.functional import dequantize_blockwise, quantize_4bit, quantize_blockwise

        packed, scales = [], []
        for piece in pieces:
            self._width = piece.shape[1]
            codes, state = quantize_4bit(
                piece.contiguous(), blocksize=BLOCK, compress_statistics=False, quant_type="nf4"
            )
            packed.append(codes)
            scales.append(state.absmax)
        self._packed, self._scales = torch.cat(packed), torch.cat(scales)
        if double_quantization:
            mean = self._scales.mean()
            self._scales = dequantize_blockwise(*quantize_blockwise(self._scales - mean, blocksize=SCALES)) + mean

    def rows(self, start: int, stop: int) -> Tensor:
        """Return one of the pieces, dequantised."""
        from bitsandbytes.functional import QuantState, dequantize_4bit, get_4bit_type

        first, last = start * self._width, stop * self._width
        state = QuantState(
            absmax=self._scales[first // BLOCK : -(-last // BLOCK)],
            shape=torch.Size((stop - start, self._width)),
            code=get_4bit_type("nf4", device="cpu"),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
        )
        return dequantize_4bit(self._packed[first // 2 : -(-last // 2)], state)
