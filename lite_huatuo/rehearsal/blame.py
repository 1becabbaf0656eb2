"""Which setting is it? After a failure the rehearsal runs again with one suspected setting at a time made plain; the
first with which the failing step passes is to blame."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

# key -> the plain value; checked in this order
PLAIN: dict[str, Any] = {
    "ppo.optimizer": "adamw",
    "sft.optimizer": "adamw",
    "ppo.gradient_checkpointing": False,
    "sft.gradient_checkpointing": False,
    "adapter.dora": False,
    "adapter.rslora": False,
    "ppo.critic.trunk": "own",
    "base.compute_dtype": "float32",
    "base.backend": "plain",
    "base.quantization": "none",
    "base.attention": "sdpa",
    "sft.packing": "off",
    "ppo.rollout.engine": "auto",
    "verifier.kind": "exact",
    "launch.processes": 1,
    "export.onto": "base",
}


def variants(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, the recipe tree with that key plain) for every suspected key that is not plain already."""
    for key, plain in PLAIN.items():
        section, (*path, last) = tree, key.split(".")
        for part in path:
            section = section[part]
        if section[last] == plain:
            continue
        changed = copy.deepcopy(tree)
        section = changed
        for part in path:
            section = section[part]
        section[last] = plain
        yield f"{key}: {_value(tree, key)}", changed


def _value(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def find(tree: dict[str, Any], passes: Callable[[dict[str, Any]], bool]) -> str | None:
    """Return the setting ("key: value") without which the rehearsal passes, None where no single one is to blame."""
    return next((setting for setting, changed in variants(tree) if passes(changed)), None)
