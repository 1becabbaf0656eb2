"""The licence an exported model carries: that of its base, by what the base is called."""

from __future__ import annotations

import re
from typing import NamedTuple

LLAMA = "Built with Llama"
QWEN = "Built with Qwen"


class Licence(NamedTuple):
    """`id` is the Hub's `license`, `name` and `link` its `license_name` and `license_link` where that is "other".

    `said` must be shown in the card; `notice` is the text of a NOTICE file that must go along.
    """

    id: str
    name: str | None = None
    link: str | None = None
    said: str | None = None
    notice: str | None = None


def _llama(version: str) -> Licence:
    notice = (
        f"Llama {version} is licensed under the Llama {version} Community License, "
        "Copyright © Meta Platforms, Inc. All Rights Reserved."
    )
    return Licence(f"llama{version}", None, None, LLAMA, notice)


def _qwen(name: str, title: str, model: str) -> Licence:
    link = f"https://huggingface.co/Qwen/{model}/blob/main/LICENSE"
    notice = f"Qwen is licensed under the {title}, Copyright (c) Alibaba Cloud. All Rights Reserved."
    return Licence("other", name, link, QWEN, notice)


# The first pattern that is found in the base's id decides.
KNOWN: tuple[tuple[str, Licence], ...] = (
    *((rf"llama-?{re.escape(version)}(?![.\d])", _llama(version)) for version in ("3.1", "3.2", "3.3")),
    (r"qwen2\.5-72b", _qwen("qwen", "Qwen LICENSE AGREEMENT", "Qwen2.5-72B-Instruct")),
    (r"qwen2\.5-3b", _qwen("qwen-research", "Qwen RESEARCH LICENSE AGREEMENT", "Qwen2.5-3B-Instruct")),
    (r"qwen2\.5-(0\.5|1\.5|7|14|32)b", Licence("apache-2.0")),
    (r"qwen3-[\d.]+b", Licence("apache-2.0")),
    (r"smollm2?-", Licence("apache-2.0")),
)


def of(base: str, own: str | None = None) -> Licence | None:
    """Return the licence of a base's derivatives, or None where it is not known; `own` is the recipe's word for it."""
    known = next((licence for pattern, licence in KNOWN if re.search(pattern, base.lower())), None)
    if own is None:
        return known
    return known._replace(id=own, name=None, link=None) if known else Licence(own)


def name_hint(licence: Licence | None, repo: str) -> str | None:
    """Return what a licence wants of the model's name, where `repo` (user/name) does not have it."""
    if licence and licence.said == LLAMA and not repo.partition("/")[2].lower().startswith("llama"):
        return f"{repo}: the Llama licence wants the name of a published model to begin with Llama"
    return None
