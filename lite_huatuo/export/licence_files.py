"""The licence files of a base go along with whatever is made from its weights: most licences ask for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from lite_huatuo import jsonl

AGREEMENTS = ("LICENSE*", "LICENCE*")
NAMES = (*AGREEMENTS, "NOTICE*", "USE_POLICY*")
NOTICE = "NOTICE"
ABSENT = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, RuntimeError)


def write(base: dict[str, Any], folder: Path, notice: str | None = None) -> list[str]:
    """Copy the licence files of a recipe's base into `folder`, add `notice` to its NOTICE; return their names.

    A folder is looked at, a Hub id is asked (offline: the cache); a GGUF file brings none.
    """
    place = _place(base)
    found = [path for name in NAMES for path in sorted(place.glob(name)) if path.is_file()] if place else []
    for path in found:
        shutil.copyfile(path, folder / path.name)
    names = {path.name for path in found}
    if notice is not None:
        before = (folder / NOTICE).read_text(encoding="utf-8") if NOTICE in names else ""
        if notice not in before:
            jsonl.write_text(folder / NOTICE, before + notice + "\n")
        names.add(NOTICE)
    return sorted(names)


def has_agreement(names: list[str]) -> bool:
    """True where the text of a licence is among the files."""
    return any(name.startswith(tuple(pattern.rstrip("*") for pattern in AGREEMENTS)) for name in names)


def _place(base: dict[str, Any]) -> Path | None:
    """Return a folder that holds the base's licence files, if there is one."""
    model = base["model"]
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    if model.endswith(".gguf"):
        return None
    try:
        return Path(snapshot_download(model, revision=base.get("revision"), allow_patterns=list(NAMES)))
    except ABSENT:  # no network, no rights, a store that broke
        return None
