"""The frozen base sharded over several cards by torch's FSDP2: each holds a part of every layer, and gathers a layer
from the others while it is used.

Only the base's layers are sharded. Adapters, embeddings, the last norm and lm_head are whole on every card, so that
optimisers, checkpoints and gradients are what they are without sharding. A pass through the network is a joint work of
all processes: one that has nothing left to do goes along (`SharedBase.goes_on`, `in_step`, `idle`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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
