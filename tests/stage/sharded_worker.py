"""One of the processes of test_sharding: what a sharded base says must be what a whole one says."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.distributed.tensor import DTensor

from lite_huatuo import processes
from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends, sharding
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.training import decoding

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


GATHERS = ("all_gather_single", "all_gather_into_tensor")  # by what FSDP2 gathers: torch 2.13, and before


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


def told(shared: SharedBase, asked: list[list[int]]) -> tuple[list[list[int]], int]:
    """Return the replies to some queries and how often something was gathered from the other process for them."""
    calls = 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return gather(*args, **kwargs)

    name = next(each for each in GATHERS if hasattr(torch.distributed, each))
    gather = getattr(torch.distributed, name)
    setattr(torch.distributed, name, counted)
    choose = decoding.sampler(1.0, seeds=[1, 2, 3])
    try:
        with shared.using("actor"):
            replies = decoding.decode(shared, asked, max_reply_length=12, batch_size=2, temperature=1.0, choose=choose)
    finally:
        setattr(torch.distributed, name, gather)
    return [reply.tokens for reply in replies], calls


def check_rollouts(whole: SharedBase, sharded: SharedBase, together: processes.Processes) -> None:
    """Replies are the same, whether the layers are held or gathered at every step."""
    asked = ROWS if together.main else ROWS[:1]  # the other has finished long before
    expected, none = told(whole, asked)
    layers, steps = len(sharded.body.layers), sum(len(reply) for reply in expected[:1])
    assert none == 0
    said: list[str] = []
    sharding.log.warning = lambda text, *values: said.append(text % values)  # type: ignore[method-assign]
    for _ in range(2):
        assert told(sharded, asked) == (expected, layers), "once a rollout"
    assert local_share(sharded) <= 0.51, "sharded again"
    assert not said
    room, sharding.free_bytes = sharding.free_bytes, lambda device: None if together.main else 1  # one card is full
    for _ in range(2):
        replies, calls = told(sharded, asked)
        assert replies == expected
        assert calls >= layers * steps
    sharding.free_bytes = room
    assert len(said) == (1 if together.main else 0), "said once, by one"
    assert all("every step gathers 0.0 GiB" in line for line in said)
    sharding._say_once.cache_clear()


def local_share(sharded: SharedBase) -> float:
    """Return which part of the sharded tensors this process holds."""
    pieces = [parameter for parameter in sharded.body.layers.parameters() if isinstance(parameter, DTensor)]
    return sum(p.to_local().numel() for p in pieces) / sum(p.numel() for p in pieces)


def check(model: str, quantization: str, together: processes.Processes) -> None:
    whole, sharded = (made(model, quantization, over) for over in (None, together))
    layers = list(sharded.body.layers.parameters())
    assert local_share(sharded) <= 0.51
    adapters = {id(parameter) for parameter in sharded.parameters("actor").values()}
    assert all(isinstance(p, DTensor) or id(p) in adapters for p in layers)
    check_rollouts(whole, sharded, together)
    for checkpointing in (False, True):
        for shared in (whole, sharded):
            if checkpointing:
                shared.enable_checkpointing()
        for left, right in zip(gradients(whole), gradients(sharded), strict=True):
            assert torch.allclose(left, right, atol=1e-5)
    check_rollouts(whole, sharded, together)
    groups = [[0], [1]] if together.main else [[0]]
    assert sharded.in_step(groups) == (groups if together.main else [[0], None])


if __name__ == "__main__":
    both = processes.join()
    assert both.count == 2
    for quantization in ("nf4", "none"):
        check(sys.argv[1], quantization, both)
    with pytest.raises(BackendError, match="fsdp2 needs full attention in every layer"):
        SharedBase.fresh(
            backends.load(sys.argv[1], attention="eager", sharded=both), "actor", rank=4, alpha=8, targets="all-linear"
        )
    print(f"process {both.rank}: same")
