"""Which recipes were rehearsed on this machine: a small file each in the cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.models.gguf import cache_dir
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import environment

FREE = ("name", "report_to")  # keys of a recipe that change no rehearsal


def _file(recipe: Recipe, on: str) -> Path:
    """Return where a recipe's rehearsal is noted: by its settings, the libraries' versions and the device."""
    tree = {key: value for key, value in recipe.model_dump().items() if key not in FREE}
    machine = {key: value for key, value in environment().items() if key in ("lite_huatuo", "python", "packages")}
    text = json.dumps([tree, machine, on], sort_keys=True, ensure_ascii=False)
    return cache_dir() / "rehearsed" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def note(recipe: Recipe, on: str, found: dict[str, Any]) -> Path:
    """Keep what came of a rehearsal."""
    path = _file(recipe, on)
    path.parent.mkdir(parents=True, exist_ok=True)
    jsonl.write_text(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def survived(recipe: Recipe, on: str) -> bool:
    """Tell whether a rehearsal of this recipe with these libraries on this kind of device has passed."""
    try:
        return bool(json.loads(_file(recipe, on).read_text(encoding="utf-8"))["survives"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
