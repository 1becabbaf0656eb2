"""What the merge must know of a network without its weights: which layers are quantised, which tensors are one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from lite_huatuo.models import backends


class Network(NamedTuple):
    """`quantised`: weights that the loader turns into 4 bit; `tied`: {output tensor: the input tensor it shares}."""

    config: Any
    quantised: frozenset[str]
    tied: dict[str, str]


def describe(folder: str, revision: str | None) -> Network:
    """Build the network without weights (on torch's meta device) and let transformers choose what it would quantise."""
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        tied = dict(model.all_tied_weights_keys)
        replace_with_bnb_linear(
            model,
            modules_to_not_convert=get_keys_to_not_convert(model),
            quantization_config=backends.quantization_config("nf4", True, torch.float32),
        )
    layers = (name for name, module in model.named_modules() if isinstance(module, Linear4bit))
    return Network(config, frozenset(f"{name}.weight" for name in layers), tied)
