"""Load the frozen base: `plain` (transformers + bitsandbytes, CPU and CUDA) or `unsloth` (CUDA), one interface.

The only module that imports unsloth, and it does so before transformers: unsloth patches it on import.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

from lite_huatuo.errors import BackendError
from lite_huatuo.models import gguf
from lite_huatuo.models import tokenizer as tokenizers
from lite_huatuo.models.tokenizer import StudentTokenizer
from lite_huatuo.processes import Processes

_loaded: weakref.WeakSet[Any] = weakref.WeakSet()  # the networks that `load` has made and that are still alive
REENTRANT = {"plain": False, "unsloth": True}  # the gradient checkpointing each backend uses


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base model with its tokenizer; `folder` is what `from_pretrained` was given (folder or Hub id).

    `packs`: rows can go through it end to end, without padding (models.packing). `sharded`: the processes that its
    layers are to be sharded over once adapters are attached.
    """

    model: Any
    tokenizer: StudentTokenizer
    backend: str
    folder: str
    revision: str | None
    packs: bool
    sharded: Processes | None = None


def choose(backend: str) -> str:
    """Return "plain" or "unsloth" for the recipe's `backend`; auto is plain: no card has proved unsloth here yet."""
    if backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        raise BackendError(
            "base.backend: unsloth is not installed; run `pip install lite-huatuo[unsloth]` or set plain"
        )
    return "plain" if backend == "auto" else backend


def prepare(backend: str) -> None:
    """Import unsloth where the recipe's `backend` asks for it: before anything imports transformers, which it patches.

    A command that may load a base calls this first.
    """
    if choose(backend) == "unsloth":
        import unsloth  # noqa: F401


def torch_dtype(name: str) -> Any:
    """Return the torch dtype of a recipe's compute_dtype; auto is float32 on CPU, bfloat16 (or float16) on CUDA."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if not torch.cuda.is_available():
        return torch.float32  # bfloat16 matrix products are many times slower on most CPUs
    # emulated bfloat16 (before compute capability 8.0: T4, RTX 20xx) is many times slower than float16
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load(
    model: str,
    *,
    fallback: str | None = None,
    revision: str | None = None,
    quantization: str = "nf4",
    double_quantization: bool = True,
    compute_dtype: str = "auto",
    keep_dequantised: bool = False,
    backend: str = "auto",
    attention: str = "sdpa",
    chat_template: str | None = None,
    max_length: int = 2048,
    sharded: Processes | None = None,
    vllm_rank: int | None = None,
) -> LoadedBase:
    """Load and quantise a base, frozen; the arguments are those of a recipe's `base` section.

    All of it goes to this process's CUDA device, or the CPU; `sharded` loads it into main memory, to be sharded over
    these processes. `vllm_rank`: vLLM will write replies with adapters of that rank; unsloth then builds its engine
    around the same weights.
    """
    release()
    chosen = choose(backend)
    prepare(chosen)
    folder = gguf.resolve(model, fallback)
    arguments = {
        "revision": revision,
        "quantization_config": quantization_config(quantization, double_quantization, torch_dtype(compute_dtype)),
        "device_map": {"": "cpu" if sharded else str(own_device())},
    }
    if chosen == "unsloth" and vllm_rank is not None:
        arguments.update(fast_inference=True, max_lora_rank=vllm_rank)
    loader = _load_unsloth if chosen == "unsloth" else _load_plain
    try:
        tokenizer = tokenizers.load(folder, revision=revision, chat_template=chat_template)
        network = loader(folder, torch_dtype(compute_dtype), attention, max_length, arguments)
    except (OSError, ValueError, ImportError) as error:  # ImportError: flash attention that is not installed
        raise BackendError(f"base.model: {model}: cannot be loaded: {_first_line(error)}") from None
    _loaded.add(network)
    network.requires_grad_(False)
    network.eval()
    _keep_differentiable(network)
    if keep_dequantised:
        _keep_dequantised(network)
    network.config.pad_token_id = network.generation_config.pad_token_id = tokenizer.pad_id
    from lite_huatuo.models import packing  # imports transformers, which unsloth must come before

    packs = chosen == "plain" and packing.enable(network)
    return LoadedBase(network, tokenizer, chosen, folder, revision, packs, sharded)


def release() -> None:
    """Free the memory of bases that nothing uses any more: call it before another is loaded.

    A base that was trained stands in reference cycles, which Python collects when it likes. And where an 8-bit
    optimizer trains, transformers registers the base's embeddings for good, so that their states be in 32 bits; here
    they are frozen and have none.
    """
    import torch

    if "bitsandbytes" in sys.modules:
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().module_weight_config_triple.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
def in_memory() -> int:
    """Return how many networks that `load` made are still alive in this process."""
    return len(_loaded)


def own_device() -> Any:
    """Return this process's CUDA device, or the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _keep_differentiable(network: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for inference on CPUs with AVX512-BF16.

    It does so on the first forward in eval mode, for good; from then on no gradient flows through those layers, without
    an error, and the products are rounded to bfloat16. A test pins this.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _keep_dequantised(network: Any) -> None:
    """Hold what every 4-bit layer dequantises at each forward: the same products, without the work. CPU only.

    Costs 4 bytes a parameter beside the 4-bit weights, which stay what is quantised, saved and exported.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from torch.nn.functional import linear

    for module in network.modules():
        if isinstance(module, Linear4bit):
            if module.weight.device.type != "cpu":
                raise BackendError("base.keep_dequantised: is for CPUs; a GPU dequantises faster than it reads float32")
            packed: Any = module.weight
            weight = dequantize_4bit(packed.data, packed.quant_state).to(module.compute_dtype)
            module.__dict__["forward"] = partial(linear, weight=weight, bias=module.bias)


def quantization_config(quantization: str, double_quantization: bool, dtype: Any) -> Any:
    """Return bitsandbytes' NF4 settings, or None for an unquantised base."""
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def _load_plain(folder: str, dtype: Any, attention: str, max_length: int, arguments: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **arguments,
    )
    network, found = loaded
    if missing := sorted(found["missing_keys"]):  # transformers fills them with random numbers, and only warns
        raise ValueError(f"has no tensor for {', '.join(missing[:3])}; fetch the whole model again")
    return network


def unsloth_arguments(folder: str, dtype: Any, max_length: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for FastLanguageModel.from_pretrained; a test checks them against its signature."""
    return {
        "model_name": folder,
        "max_seq_length": max_length,
        "dtype": dtype,
        "load_in_4bit": arguments["quantization_config"] is not None,
        "trust_remote_code": False,
        "use_exact_model_name": True,
        "offload_embedding": False,  # by default it may put the embedding on the CPU, and with it what we send there
        **arguments,
    }


def _load_unsloth(folder: str, dtype: Any, attention: str, max_length: int, arguments: dict[str, Any]) -> Any:
    from unsloth import FastLanguageModel  # it chooses its own attention

    return FastLanguageModel.from_pretrained(**unsloth_arguments(folder, dtype, max_length, arguments))[0]


def _first_line(error: Exception) -> str:
    """Return the first line of an error of transformers, which often brings a page."""
    return str(error).strip().split("\n")[0]
