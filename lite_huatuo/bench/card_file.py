"""card.json: what a bench found, written after every check, and free of what says whose machine it was."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from lite_huatuo import __version__, jsonl
from lite_huatuo.errors import CheckpointError

NAME, FORMAT = "card.json", 1
PASSED, FAILED, NOT_RUN, RUNNING = "passed", "failed", "not run", "running"
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)  # in the names of environment variables
# An absolute path of two parts or more, or one from the home folder; its last part stays, it says what it was.
PATH = re.compile(r"(?<![\w.~/])~?/(?:[^\s/:,;'\"()]+/)+([^\s/:,;'\"()]*)")
SHORTEST = 3  # letters of a name worth hiding: a shorter one is a part of many words


def new(size: str, device: str) -> dict[str, Any]:
    """Return a card without results."""
    return {"format": FORMAT, "lite_huatuo": __version__, "size": size, "device": device, "checks": {}}


def read(folder: Path, size: str, device: str) -> dict[str, Any]:
    """Return the card in a folder, a new one where there is none; CheckpointError for one of another bench."""
    path = folder / NAME
    if not path.exists():
        return new(size, device)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        told = {key: found[key] for key in ("format", "lite_huatuo", "size", "device")}
        assert isinstance(found["checks"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise CheckpointError(f"{path}: is no card of a bench; give another folder with --to") from None
    wanted = {key: value for key, value in new(size, device).items() if key != "checks"}
    if told != wanted:
        other = ", ".join(f"{key} {told[key]}" for key in wanted if told[key] != wanted[key])
        raise CheckpointError(f"{path}: is of another bench ({other}); give another folder with --to")
    return found


def write(folder: Path, card: dict[str, Any]) -> None:
    """Write the card, whole or not at all."""
    jsonl.write_text(folder / NAME, json.dumps(anonymous(card), indent=1, ensure_ascii=False) + "\n")


def anonymous(value: Any) -> Any:
    """Return figures with every text in them freed of paths, names of machine and user, and keys."""
    if isinstance(value, dict):
        return {anonymous(name): anonymous(each) for name, each in value.items()}
    if isinstance(value, list):
        return [anonymous(each) for each in value]
    return _hidden(value) if isinstance(value, str) else value


def _hidden(text: str) -> str:
    for secret in (value for name, value in os.environ.items() if SECRET.search(name) and len(value) > SHORTEST):
        text = text.replace(secret, "…")
    text = PATH.sub(r"…/\1", text)
    for name in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text)
    return text


def _names() -> list[str]:
    """Return the names of machine and user."""
    host = platform.node()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # nobody: a container without a name for its user
        user = ""
    return [name for name in (host, host.split(".")[0], user) if len(name) >= SHORTEST]
