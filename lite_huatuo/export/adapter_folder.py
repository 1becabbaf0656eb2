"""Export the adapter alone: plain peft layout, with the tokenizer and chat template it was trained with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lite_huatuo import jsonl, manifest
from lite_huatuo.errors import ExportError
from lite_huatuo.export import side_files
from lite_huatuo.export.adapter_file import CONFIG, PREFIX, WEIGHTS
from lite_huatuo.export.merge import REPORT
from lite_huatuo.models import gguf

Log = dict[str, Any]


def export(
    adapter: Path, to: Path, *, base: Log, finish: Callable[[Path, Log], None] = lambda folder, log: None
) -> Log:
    """Write the adapter to the new folder `to`, whole or not at all; return the figures.

    Its configuration names the base by its Hub id, or not at all: a path of this machine is of no use to others. The
    weights are the run's, to the bit. `finish(folder, figures)` may add files and figures before the folder gets its
    name.
    """
    if to.exists():
        raise ExportError(f"{to}: already exists; give a new folder")
    config = _config(adapter)
    work = to.with_name(f".exporting-{to.name}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        shutil.copyfile(adapter / WEIGHTS, work / WEIGHTS)
        config |= {
            "base_model_name_or_path": hub_id(base),
            "revision": base.get("revision") if hub_id(base) else None,
            "inference_mode": True,
        }
        jsonl.write_text(work / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
        side_files.write_tokenizer(work, base, gguf.resolve(base["model"], base.get("fallback")))
        figures = {"onto": "adapter", "tensors": _tensors(adapter), "vllm": vllm_objections(config)}
        figures["fingerprint"] = fingerprint(adapter)
        finish(work, figures)
        jsonl.write_text(work / REPORT, json.dumps(figures, indent=2) + "\n")
        os.replace(work, to)
    except OSError as error:
        raise ExportError(f"{to}: cannot be written ({error.strerror or error}); choose another folder") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return figures


def fingerprint(adapter: Path) -> str:
    """Return what tells one adapter from another."""
    return f"adapter {manifest.digest(adapter / WEIGHTS)}"


def public_base(base: Log) -> str:
    """Return the base's name for others: a Hub id where the recipe has one, else what it says."""
    if base["model"].startswith(gguf.PACKAGE) or base["model"].endswith(".gguf"):
        return base.get("fallback") or base["model"]
    return base["model"]


def hub_id(base: Log) -> str | None:
    """Return the base's id on the Hub; None where it has none, a folder or file of this machine."""
    name = public_base(base)
    foreign = name.startswith((gguf.PACKAGE, ".", "/", "~")) or name.endswith(".gguf") or name.count("/") != 1
    return None if foreign or Path(name).exists() else name


def vllm_objections(config: Log) -> list[str]:
    """Return why vLLM would not serve this adapter beside its base, or not as trained; empty where it would."""
    objections = {
        "use_dora": "DoRA is not supported",
        "modules_to_save": "whole modules (modules_to_save) are not supported",
        "lora_bias": "biases are not supported",
        # vLLM 0.27.1 reads neither: each layer is scaled by lora_alpha and r of the whole adapter, without a word
        "rank_pattern": "ranks by layer (rank_pattern) are scaled wrongly",
        "alpha_pattern": "alphas by layer (alpha_pattern) are scaled wrongly",
    }
    found = [text for key, text in objections.items() if config.get(key)]
    return found + (["biases are not supported"] if config.get("bias", "none") != "none" else [])


def _config(adapter: Path) -> Log:
    try:
        return json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{adapter}: no adapter can be read here ({error})") from None


def _tensors(adapter: Path) -> int:
    """Return the number of tensors; their names must be those of a causal language model's adapter."""
    try:
        with safe_open(adapter / WEIGHTS, "pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{adapter / WEIGHTS}: cannot be read ({error})") from None
    foreign = [key for key in keys if not key.startswith(PREFIX)]
    if foreign:
        raise ExportError(f"{adapter / WEIGHTS}: {foreign[0]}: not a name of a causal language model's adapter")
    return len(keys)
