"""Write an exported folder as one GGUF file, tensor by tensor: Llama and Qwen2, in f16 or q8_0.

Norms and biases stay float32, as llama.cpp wants them. Llama's query and key rows are put into the order of llama.cpp's
rotary embedding, which turns neighbouring pairs where transformers turns halves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy
import torch

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files
from lite_huatuo.export.base_files import Info
from lite_huatuo.export.gguf_vocabulary import adds_begin, vocabulary

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}
TYPES = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
F32, F16 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16


def check(config: Any) -> None:
    """Refuse a network that cannot be written, by its configuration."""
    if config.model_type not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise ExportError(f"--gguf: {config.model_type} is not known here, only {known}; leave --gguf out")
    rope_factors(config)


def write(folder: Path, path: Path, kind: str, *, name: str) -> None:
    """Write the model in `folder` to `path`; `kind` is f16 or q8_0, `name` what the file calls the model."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    check(config)
    files = base_files.find(str(folder), None)
    places = {tensor: files.path(shard) for shard, tensors in files.shards.items() for tensor in tensors}
    stored = {tensor: info for tensors in files.shards.values() for tensor, info in tensors.items()}
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
    _describe(writer, config, TYPES[kind][1], name)
    _describe_tokenizer(writer, AutoTokenizer.from_pretrained(folder), config, stored)
    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor, info in stored.items():
        ours = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if ours is None:
            raise ExportError(f"--gguf: {tensor}: llama.cpp has no place for it in a {config.model_type} model")
        target = _type(info, kind)
        nbytes = int(numpy.prod(gguf.quant_shape_to_byte_shape(info.shape, target)))
        writer.add_tensor_info(ours, info.shape, numpy.dtype(numpy.float32), nbytes, raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor, info in stored.items():
        writer.write_tensor_data(_data(places[tensor], tensor, info, config, kind))
    writer.close()


def permute(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Put the rows of a query or key weight from transformers' rotary order (halves) into llama.cpp's (pairs)."""
    rows = len(weight)
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def rope_factors(config: Any) -> numpy.ndarray | None:
    """Return what Llama 3.1's rotary scaling divides each frequency by, float32 (head_dim / 2,); None where plain."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = config.rope_parameters
    kind = settings.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "llama3":
        raise ExportError(f"--gguf: rotary scaling of type {kind} is not known here")
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].numpy()
    plain = settings["rope_theta"] ** (-numpy.arange(len(scaled), dtype=numpy.float64) / len(scaled))
    return (plain / scaled).astype(numpy.float32)


def _type(info: Info, kind: str) -> gguf.GGMLQuantizationType:
    """Return the element type of one tensor: rows that q8_0's blocks of 32 do not divide stay f16."""
    if len(info.shape) == 1:
        return F32
    target = TYPES[kind][0]
    return F16 if target not in (F16, F32) and info.shape[-1] % 32 else target


def _data(path: Path, tensor: str, info: Info, config: Any, kind: str) -> numpy.ndarray:
    weight = base_files.rows(path, tensor, 0, info.shape[0]).float().numpy()
    if config.model_type == "llama" and ".self_attn.q_proj." in tensor:
        weight = permute(weight, config.num_attention_heads)
    if config.model_type == "llama" and ".self_attn.k_proj." in tensor:
        weight = permute(weight, config.num_key_value_heads)
    target = _type(info, kind)
    with numpy.errstate(over="ignore"):
        data = gguf.quants.quantize(weight, target)
    if target == F16 and not numpy.isfinite(data).all():
        raise ExportError(f"--gguf: {tensor}: float16 cannot hold its values; use q8_0")
    return data


def _describe(writer: gguf.GGUFWriter, config: Any, file_type: gguf.LlamaFileType, name: str) -> None:
    """Write the network's shape."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head)
    if head * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _describe_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, config: Any, stored: dict[str, Info]) -> None:
    """Write vocabulary, special tokens and chat template."""
    found = vocabulary(tokenizer, stored["model.embed_tokens.weight"].shape[0])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(found.cut)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    writer.add_token_merges(found.merges)
    # readers want a begin token even where none is ever written
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    writer.add_bos_token_id(begin)
    writer.add_add_bos_token(adds_begin(tokenizer))
    writer.add_add_space_prefix(False)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
