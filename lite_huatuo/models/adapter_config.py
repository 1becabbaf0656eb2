"""What a saved adapter's configuration may ask for, checked before peft reads it: plain LoRA, on this base.

An adapter folder may come from anywhere. Some of peft's settings import modules by name or read files that the
configuration names; others change the base. None of them is needed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lite_huatuo.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings of plain LoRA, rank-stabilised LoRA and DoRA; what they say is checked by peft and by the tensors' shapes.
KNOWN = {
    "alpha_pattern", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "modules_to_save", "peft_version", "r", "rank_pattern",
    "revision", "target_modules", "use_dora", "use_rslora",
}  # fmt: skip
# The values that other settings may have: those peft writes where nobody asked for anything.
IDLE: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
}


def check(folder: Path, base: str) -> None:
    """Refuse an adapter folder that is not plain LoRA in safetensors, or was made for another Hub model than `base`."""
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for path in folder.glob("adapter_model.*"))
        told = f"{WEIGHTS} is missing" + (f"; {pickled[0]} is not read: unpickling runs its code" if pickled else "")
        raise CheckpointError(f"{folder}: no adapter here ({told})")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read ({error}); fetch or save the adapter again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG}: not an adapter's configuration")
    for key, value in config.items():
        if key in KNOWN or not value or value in IDLE.get(key, ()):
            continue
        if key == "auto_mapping" and isinstance(value, dict) and value.get("unsloth_fixed"):
            continue  # names that unsloth writes for another loader than the one used here
        raise CheckpointError(
            f"{folder / CONFIG}: {key}: {str(value)[:80]}: only plain LoRA for a causal model is read"
        )
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / CONFIG}: peft_type is missing; only plain LoRA is read")
    _check_ranks(folder, [config.get("r"), *dict(config.get("rank_pattern") or {}).values()])
    made_for = str(config.get("base_model_name_or_path") or "")
    if _is_hub_id(made_for) and _is_hub_id(base) and made_for.lower() != base.lower():
        raise CheckpointError(
            f"{folder}: was trained on {made_for}, and the base here is {base}; load it on its own base, or correct "
            f"base_model_name_or_path in {CONFIG} where both are the same weights"
        )


def _check_ranks(folder: Path, told: list[Any]) -> None:
    """Refuse ranks that are above those of the tensors: room for them would be made before a tensor is read."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            halves = [key for key in file.keys() if "lora_A" in key or "lora_embedding_A" in key]  # noqa: SIM118
            highest = max((int(file.get_slice(key).get_shape()[0]) for key in halves), default=0)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read ({error}); fetch or save it again") from None
    for rank in told:
        if not isinstance(rank, int) or not 1 <= rank <= highest:
            raise CheckpointError(f"{folder / CONFIG}: r: {str(rank)[:80]}: the adapter's tensors have rank {highest}")


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def parameters(model: Any, name: str) -> dict[str, Any]:
    """Return the parameters of one adapter: those with its name as a whole path element."""
    return {key: parameter for key, parameter in model.named_parameters() if f".{name}." in f"{key}."}


def saved_name(key: str, adapter: str) -> str:
    """Return the name peft saves a parameter under: without the adapter's name, DoRA's magnitudes without ".weight"."""
    name = key.replace(f".{adapter}.", ".").removesuffix(f".{adapter}")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
