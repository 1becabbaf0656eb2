"""One of the processes of test_sharding: what a sharded base says must be what a whole one says."""

from __future__ import annotations

import sys

import torch
from torch.distributed.tensor import DTensor

from lite_huatuo import processes
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.training import decoding

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


def made(model: str, quantization: str, sharded: processes.Processes | None) -> SharedBase:
    torch.manual_seed(0)
    loaded = backends.load(model, quantization=quantization, sharded=sharded)
    shared = SharedBase.fresh(loaded, "actor", rank=4, alpha=8, targets="all-linear")
    for parameter in shared.parameters("actor").values():
        parameter.data.normal_(std=0.1)
    return shared


def gradients(shared: SharedBase) -> list[torch.Tensor]:
    with shared.using("actor", learn=True):
        shared.states(ROWS).square().sum().backward()
    return [parameter.grad for parameter in shared.parameters("actor").values()]


def check(model: str, quantization: str, together: processes.Processes) -> None:
    whole, sharded = (made(model, quantization, over) for over in (None, together))
    layers = list(sharded.body.layers.parameters())
    pieces = [parameter for parameter in layers if isinstance(parameter, DTensor)]
    local = sum(parameter.to_local().numel() for parameter in pieces)
    assert local <= 0.51 * sum(parameter.numel() for parameter in pieces)
    adapters = {id(parameter) for parameter in sharded.parameters("actor").values()}
    assert all(isinstance(p, DTensor) or id(p) in adapters for p in layers)
    for checkpointing in (False, True):
        for shared in (whole, sharded):
            if checkpointing:
                shared.enable_checkpointing()
        for left, right in zip(gradients(whole), gradients(sharded), strict=True):
            assert torch.allclose(left, right, atol=1e-5)
    choose = decoding.sampler(1.0, seeds=[1, 2, 3])
    asked = ROWS if together.main else ROWS[:1]  # the other has finished long before and goes along
    told = []
    for shared in (whole, sharded):
        with shared.using("actor"):
            told.append(
                decoding.decode(shared, asked, max_reply_length=12, batch_size=2, temperature=1.0, choose=choose)
            )
    assert [reply.tokens for reply in told[0]] == [reply.tokens for reply in told[1]]
    groups = [[0], [1]] if together.main else [[0]]
    assert sharded.in_step(groups) == (groups if together.main else [[0], None])


if __name__ == "__main__":
    both = processes.join()
    assert both.count == 2
    for quantization in ("nf4", "none"):
        check(sys.argv[1], quantization, both)
    print(f"process {both.rank}: same")
