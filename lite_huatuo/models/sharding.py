"""The frozen base sharded over several cards by torch's FSDP2: each holds a part of every layer, and gathers a layer
from the others while it is used.

Only the base's layers are sharded. Adapters, embeddings, the last norm and lm_head are whole on every card, so that
optimisers, checkpoints and gradients are what they are without sharding. A pass through the network is a joint work of
all processes: one that has nothing left to do goes along (`SharedBase.goes_on`, `in_step`, `idle`).

A rollout makes a pass for every token. Where the cards have room, it gathers all layers once and keeps them to its end.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lite_huatuo.processes import Processes

log = logging.getLogger(__name__)
GIB = 2**30
MARGIN = 1.1  # for what the allocator loses between its blocks: an estimate


@contextmanager
def gathered(layers: Iterable[Any]) -> Iterator[None]:
    """Hold all layers whole on this card while the block runs. All processes enter together; each leaves by itself."""
    held = list(layers)
    for layer in held:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in held:
            layer.set_reshard_after_forward(True)
            layer.reshard()


def all_have_room(causal: Any, processes: Processes, rows: int, tokens: int) -> bool:
    """Tell whether the gathered layers fit every process's card beside the cache of `rows` rows of `tokens` tokens.

    Asked before the cache is there. Where one has no room, a line says what that costs.
    """
    weights = layer_bytes(causal)
    wanted = round(MARGIN * (weights + _rollout_bytes(causal, rows, tokens)))
    free = free_bytes(causal.get_input_embeddings().weight.device)
    lacking = bool(processes.most(int(free is not None and free < wanted)))
    if lacking and processes.main:
        _say_once(weights)
    return not lacking


def layer_bytes(causal: Any) -> int:
    """Return the bytes of the layers' sharded parameters when they are whole."""
    from torch.distributed.tensor import DTensor

    body = getattr(causal, causal.base_model_prefix)
    return sum(p.numel() * p.element_size() for p in body.layers.parameters() if isinstance(p, DTensor))


def free_bytes(device: torch.device) -> int | None:
    """Return what can still be allocated on a card, None on a CPU: there main memory has held the whole base before."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _rollout_bytes(causal: Any, rows: int, tokens: int) -> int:
    """Return what writing takes: keys and values with the half that `Slots` grows by, float32 and float64 logits."""
    config = causal.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = causal.get_input_embeddings().weight.element_size()
    cache = 2 * config.num_hidden_layers * heads * size * width * rows * tokens
    return cache * 3 // 2 + 16 * rows * config.vocab_size


@functools.cache
def _say_once(weights: int) -> None:
    log.warning(
        "the cards have no room to hold the base's layers through a rollout: every step gathers %.1f GiB from the "
        "other cards; fewer rows at once (ppo.rollout.batch_size) need less room",
        weights / GIB,
    )


def shard(causal: Any, device: torch.device) -> None:
    """Shard the layers of a causal network over the cards (`device`) of all processes, after adapters were attached.

    The network was loaded into main memory, so that no card ever holds all of it. Of a 4-bit layer the packed bytes are
    sharded; its quantization constants stay whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    body = getattr(causal, causal.base_model_prefix)
    adapters = {parameter for name, parameter in causal.named_parameters() if "lora_" in name}
    inside = {parameter for layer in body.layers for parameter in layer.parameters()} - adapters
    whole = set(causal.parameters()) - inside
    _move(whole, device)
    _move_constants(causal, device)
    for layer in body.layers:
        fully_shard(layer, mesh=mesh, ignored_params=adapters)
    fully_shard(body, mesh=mesh, ignored_params=whole)


def _move(parameters: Iterable[nn.Parameter], device: torch.device) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.to(device)


def _move_constants(causal: nn.Module, device: torch.device) -> None:
    """Move what is no parameter: buffers, and the quantization constants of 4-bit layers."""
    for module in causal.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            state.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
