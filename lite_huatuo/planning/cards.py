"""Graphics cards by name and what of their memory a program can have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lite_huatuo.errors import RecipeError

GIB = 2**30
USABLE = 0.98  # of the memory a card is sold with; the driver keeps the rest
# GiB a card is sold with; the L40S corrects errors in its memory, which takes a share of it
CARDS = {
    "RTX 3060": 12,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "A6000": 48,
    "L40S": 45,
    "A100": 80,
    "H100": 80,
    "H200": 140,
}
CPU = "cpu"


@dataclass(frozen=True)
class Card:
    """A device: its name and the bytes a program can have; `gpu` is False for main memory."""

    name: str
    bytes: int
    gpu: bool = True


def find(name: str) -> Card:
    """Return the card of a name (rtx4090, "RTX 4090", a100, 24gb); RecipeError names what there is."""
    wanted = _plain(name)
    for known, gib in CARDS.items():
        if wanted in (_plain(known), _plain(known).removeprefix("rtx")):
            return Card(known, round(USABLE * gib * GIB))
    sized = re.fullmatch(r"(\d+(?:\.\d+)?)(gb|gib|g)?", name.strip().lower())
    if sized and float(sized[1]) > 0:
        return Card(f"{sized[1]} GB", round(USABLE * float(sized[1]) * GIB))
    raise RecipeError(
        f"--gpu {name}: no such card; give one of {', '.join(_plain(card) for card in CARDS)}, a size such as 24gb, "
        "or cpu"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")
