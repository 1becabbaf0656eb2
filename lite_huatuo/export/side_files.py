"""What stands beside the weights: config, generation config, tokenizer, chat template, index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from lite_huatuo import jsonl
from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, plan, settings_files
from lite_huatuo.export.base_files import INDEX
from lite_huatuo.export.network import Network
from lite_huatuo.export.plan import OutShard
from lite_huatuo.export.settings_files import Settings
from lite_huatuo.models import tokenizer as tokenizers
from lite_huatuo.models.tokenizer import StudentTokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"


def write(
    work: Path, network: Network, planned: list[OutShard], *, base: dict[str, Any], folder: str, dtype: str
) -> None:
    """Write all of them into `work`; `folder` is the base's folder or Hub id."""
    tokenizer = write_tokenizer(work, base, folder)
    revision = base.get("revision")
    rope = getattr(network.config, "rope_parameters", None)
    untied = any(name in network.tied for shard in planned for name in shard.tensors)
    config = settings_files.config(
        _own(folder, revision, CONFIG) or network.config.to_dict(),
        rope,
        dtype=dtype,
        pad_id=tokenizer.pad_id,
        untied=untied,
    )
    generation = settings_files.generation(
        _own(folder, revision, GENERATION), stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id
    )
    index = plan.index(planned)
    for name, settings in ((CONFIG, config), (GENERATION, generation), (INDEX, index)):
        if settings is not None:
            _write(work / name, settings)


def write_tokenizer(work: Path, base: dict[str, Any], folder: str) -> StudentTokenizer:
    """Write the student's tokenizer into `work` and return it.

    How it cuts text is written as it was in training; its settings are the base's own.
    """
    revision, given = base.get("revision"), base.get("chat_template")
    tokenizer = tokenizers.load(folder, revision=revision, chat_template=given)
    tokenizer.hf.save_pretrained(work)
    end, pad = tokenizer.hf.eos_token, tokenizer.hf.pad_token
    template = None if given is None else tokenizer.hf.chat_template
    own = _own(folder, revision, TOKENIZER) or _read(work / TOKENIZER)
    if own is not None:
        _write(work / TOKENIZER, settings_files.tokenizer(own, end=end, pad=pad, chat_template=template))
    named = _own(folder, revision, SPECIAL_TOKENS)
    if named is not None:  # read where the settings name no added tokens
        _write(work / SPECIAL_TOKENS, settings_files.special_tokens(named, end=end, pad=pad))
    return tokenizer


def _own(folder: str, revision: str | None, name: str) -> Settings | None:
    """Return a JSON file of the base, or None where it has none."""
    if Path(folder).is_dir():
        return _read(Path(folder) / name)
    try:
        return _read(Path(hf_hub_download(folder, name, revision=revision)))
    except EntryNotFoundError:  # offline too: what the base has was fetched with its tokenizer
        return None
    except Exception as error:  # the network, access, and what its libraries raise where their stores break
        why = base_files.first_line(error)
        raise ExportError(f"{folder}: {name}: cannot be fetched from the Hub ({why}); run the command again") from None


def _read(path: Path) -> Settings | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error}); fetch the base again") from None


def _write(path: Path, settings: Settings) -> None:
    jsonl.write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
