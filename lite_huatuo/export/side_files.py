"""What stands beside the weights: config, generation config, tokenizer, chat template, index."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.export import plan
from lite_huatuo.export.base_files import INDEX
from lite_huatuo.export.network import Network
from lite_huatuo.export.plan import OutShard
from lite_huatuo.models import tokenizer as tokenizers
from lite_huatuo.models.tokenizer import StudentTokenizer


def write(
    work: Path, network: Network, planned: list[OutShard], *, base: dict[str, Any], folder: str, dtype: str
) -> None:
    """Write all of them into `work`; `folder` is the base's folder or Hub id."""
    tokenizer = load_tokenizer(base, folder)
    tokenizer.hf.save_pretrained(work)
    config = copy.deepcopy(network.config)
    config.dtype = dtype
    config.pad_token_id = tokenizer.pad_id
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if any(name in network.tied for shard in planned for name in shard.tensors):
        config.tie_word_embeddings = False
    config.save_pretrained(work)
    _generation_config(config, tokenizer, folder, base.get("revision")).save_pretrained(work)
    index = plan.index(planned)
    if index is not None:
        jsonl.write_text(work / INDEX, json.dumps(index, indent=2) + "\n")


def load_tokenizer(base: dict[str, Any], folder: str) -> StudentTokenizer:
    """Return the student's tokenizer, with the chat template it was trained with."""
    return tokenizers.load(folder, revision=base.get("revision"), chat_template=base.get("chat_template"))


def _generation_config(config: Any, tokenizer: StudentTokenizer, folder: str, revision: str | None) -> Any:
    """Return the base's generation config with the student's stop and pad tokens."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(folder, revision=revision or "main")
    except OSError:  # a base without one
        generation = GenerationConfig.from_model_config(config)
    generation.eos_token_id, generation.pad_token_id = tokenizer.stop_ids, tokenizer.pad_id
    return generation
