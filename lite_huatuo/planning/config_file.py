"""Find the config.json of a base without loading it: a file, a folder, what is shipped or was downloaded, the Hub."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from lite_huatuo import hub_access
from lite_huatuo.errors import BackendError

PACKAGE = "lite_huatuo.planning.configs"
NAME = "config.json"


def find(
    model: str, *, fallback: str | None = None, revision: str | None = None, file: Path | None = None
) -> tuple[dict[str, Any], str]:
    """Return (config, where it was found) of a recipe's base; `file` comes before everything.

    The Hub is asked last, and only for a Hub id. BackendError says what to give where nothing was found.
    """
    if file is not None:
        return _read(file), str(file)
    if (folder := Path(os.path.expanduser(model))).is_dir():
        return _read(folder / NAME), str(folder / NAME)
    hub_id = fallback if fallback is not None and model.endswith(".gguf") else model
    if hub_id.endswith(".gguf") or hub_id.startswith((".", "/", "~")) or hub_id.count("/") != 1:
        raise BackendError(
            f"base.model: {model}: no config.json can be found for it; give that of the same model with --config FILE"
        )
    if (shipped := resources.files(PACKAGE) / f"{hub_id.replace('/', '--')}.json").is_file():
        return json.loads(shipped.read_text("utf-8")), f"the shipped copy of {hub_id}'s"
    path = _cached(hub_id, revision) or _downloaded(hub_id, revision)
    return _read(path), f"{hub_id} ({path})"


def _cached(hub_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, NAME, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _downloaded(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    unasked = hub_access.failure()
    try:
        return Path(hf_hub_download(hub_id, NAME, revision=revision))
    except Exception as error:  # the library raises many kinds, network errors among them
        reason = unasked or f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        raise BackendError(
            f"base.model: {hub_id}: its config.json is not on this machine and the Hub does not give it "
            f"({reason}); check the name, or give the file with --config FILE"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BackendError(f"{path}: cannot be read ({error.strerror}); give a model's config.json") from None
    except ValueError as error:
        raise BackendError(f"{path}: not JSON ({error}); give a model's config.json") from None
    if not isinstance(config, dict):
        raise BackendError(f"{path}: not a model's config.json")
    return config
