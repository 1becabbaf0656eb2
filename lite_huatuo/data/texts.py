"""One way to compare texts, for every step that asks whether two questions are the same: filter, decontaminate, mix."""

from __future__ import annotations

import hashlib
import re
import unicodedata

# One Han character says about as much as three of an alphabet.
HAN_WEIGHT = 3
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HAN = re.compile(f"[{HAN}]")
_UNIT = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "−": "-"})


def normalise(text: str) -> str:
    """Return a text without what copies differ in: case, width, kinds of quotes and dashes, runs of space."""
    return " ".join(unicodedata.normalize("NFKC", text.translate(_QUOTES)).casefold().split())


def units(text: str) -> list[str]:
    """Return the words of a text, and of Han script the characters, in order and normalised: no punctuation."""
    return _UNIT.findall(normalise(text))


def han(text: str) -> int:
    """Return the number of Han characters in a text."""
    return len(_HAN.findall(text))


def length(text: str) -> int:
    """Return how long a text is, in characters of an alphabet: a Han character counts for three."""
    return len(text) + (HAN_WEIGHT - 1) * han(text)


def key(*texts: str) -> bytes:
    """Return 16 bytes that are equal for texts of equal units: what tells the same question again."""
    content = "\0".join(" ".join(units(text)) or normalise(text) for text in texts)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()
