"""A saved LoRA adapter, read one tensor at a time: what it changes in the base, and what it changes it to.

Plain LoRA, rank-stabilised LoRA and DoRA on linear layers; LoRA on embeddings; whole modules and biases that were
trained beside it. The formulas are those of peft 0.21; `export.parity` holds every result against peft itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lite_huatuo.errors import ExportError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
# Settings of peft under which the formulas here would be wrong.
UNKNOWN = (
    "alora_invocation_tokens",
    "arrow_config",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
# Ways of peft 0.21 to begin (init_lora_weights) that take the adapter's first product out of the base's weights: the
# adapter then belongs to a changed base, not to the one it names. (eva, orthogonal, gaussian, mica leave it alone.)
BASE_CHANGING = ("pissa", "corda", "olora", "loftq", "lora_ga")
ENDINGS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_magnitude_vector": "magnitude",
}


@dataclass(frozen=True)
class Lora:
    """One layer's LoRA, float32: `a` (r, in), `b` (out, r), `magnitude` (out,) where it is DoRA.

    For an embedding the layer's rows are tokens: `a` (r, tokens), `b` (width, r).
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None
    embedding: bool

    def merged(self, weight: Tensor, start: int) -> Tensor:
        """Return float32 rows of the merged weight; `weight` (n, in) float32 are the base's rows from `start` on."""
        stop = start + len(weight)
        if self.embedding:
            return torch.addmm(weight, self.a[:, start:stop].T, self.b.T, alpha=self.scale)
        rows = torch.addmm(weight, self.b[start:stop], self.a, alpha=self.scale)
        if self.magnitude is None:
            return rows
        return rows * (self.magnitude[start:stop] / torch.linalg.norm(rows, dim=1))[:, None]


class AdapterFile:
    """A peft adapter folder: the names of the base tensors it changes; their values are read when asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the configuration and the names; refuse what cannot be merged by the formulas here."""
        self.folder, self.path = folder, folder / WEIGHTS
        try:
            self.config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            with safe_open(self.path, "pt") as file:
                keys = list(file.keys())
        except (OSError, ValueError, SafetensorError) as error:
            raise ExportError(f"{folder}: no adapter can be read here ({error})") from None
        wrong = [name for name in UNKNOWN if self.config.get(name)]
        if self.config.get("peft_type") != "LORA" or wrong:
            what = ", ".join(wrong) or str(self.config.get("peft_type"))
            raise ExportError(f"{folder}: {what}: merging such an adapter is not known here; export it with --adapter")
        self._refuse_changed_base()
        self._parts: dict[str, dict[str, str]] = {}  # base tensor -> part of its LoRA -> key in the file
        self._replaced: dict[str, str] = {}  # base tensor -> key in the file
        for key in keys:
            self._place(key)
        for name, parts in self._parts.items():
            if not {"a", "b"} <= set(parts):
                raise ExportError(f"{self.path}: {name}: one half of its LoRA is missing; the file is damaged")

    def _refuse_changed_base(self) -> None:
        begin = self.config.get("init_lora_weights")
        if isinstance(begin, str) and begin.lower().startswith(BASE_CHANGING):
            raise ExportError(
                f"{self.folder}: init_lora_weights: {begin}: it was trained on a base whose weights that changed; make "
                "it plain LoRA by peft's save_pretrained(..., path_initial_model_for_weight_conversion=...), or save "
                "the changed base, name it as base.model and set init_lora_weights to true"
            )

    def _place(self, key: str) -> None:
        if not key.startswith(PREFIX):
            raise ExportError(f"{self.path}: {key}: not a name of a causal language model's adapter")
        name = key.removeprefix(PREFIX)
        for ending, part in ENDINGS.items():
            if name.endswith(ending):
                self._parts.setdefault(name.removesuffix(ending) + ".weight", {})[part] = key
                return
        if ".lora_" in name:
            raise ExportError(f"{self.path}: {key}: merging such a tensor is not known here; export it with --adapter")
        self._replaced[name.replace(".base_layer.", ".")] = key

    @property
    def loras(self) -> set[str]:
        """Names of the base tensors that get a LoRA product."""
        return set(self._parts)

    @property
    def replaced(self) -> set[str]:
        """Names of the base tensors that the adapter brings whole (modules_to_save, biases)."""
        return set(self._replaced)

    @property
    def changed(self) -> set[str]:
        """Names of all base tensors that differ after the merge."""
        return self.loras | self.replaced

    def lora(self, name: str) -> Lora:
        """Return the LoRA of one base tensor."""
        parts = self._parts[name]
        with safe_open(self.path, "pt") as file:
            tensors = {part: file.get_tensor(key).float() for part, key in parts.items()}
        rank = len(tensors["a"])
        alpha = self._pattern("alpha_pattern", name, self.config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank
        embedding = parts["a"].endswith("lora_embedding_A")
        if embedding and "magnitude" in tensors:
            raise ExportError(f"{self.path}: {name}: DoRA on an embedding is not known here; export it with --adapter")
        return Lora(tensors["a"], tensors["b"], scale, tensors.get("magnitude"), embedding)

    def replacement(self, name: str) -> Tensor:
        """Return the tensor that takes the place of a base tensor, as stored."""
        with safe_open(self.path, "pt") as file:
            return file.get_tensor(self._replaced[name])

    def rank(self, name: str) -> int:
        """Return the rank of one layer's LoRA."""
        with safe_open(self.path, "pt") as file:
            return int(file.get_slice(self._parts[name]["a"]).get_shape()[0])

    def alpha(self, name: str) -> float:
        """Return lora_alpha for one layer."""
        return self._pattern("alpha_pattern", name, self.config["lora_alpha"])

    def state(self, name: str) -> dict[str, Tensor]:
        """Return one layer's LoRA tensors under peft's names below the layer: {"lora_A.weight": …}."""
        module = PREFIX + name.removesuffix(".weight") + "."
        with safe_open(self.path, "pt") as file:
            return {key.removeprefix(module): file.get_tensor(key) for key in self._parts[name].values()}

    def digest(self) -> str:
        """Return the SHA-256 of weights and configuration."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def _pattern(self, key: str, name: str, default: float) -> float:
        """Return a setting that may differ by layer; peft's own matching."""
        patterns = self.config.get(key) or {}
        return patterns.get(get_pattern_key(list(patterns), name.removesuffix(".weight")), default)
