"""How values are written for people: numbers, shares, times, sizes, and text that came from a model."""

from __future__ import annotations

from typing import Any

NOTHING = "–"
MOST = 1e100  # no float32 comes near, and sums of such numbers stay finite
_KEPT = "\n\t"
_STEERING = (range(0x80, 0xA0), range(0xD800, 0xE000), range(0x202A, 0x202F), range(0x2066, 0x206A))


def clean(value: Any) -> str:
    """Return text that shows and does nothing: control characters become their pictures (␛), half characters and what
    turns the direction of the text around it U+FFFD. Line ends and tabs stay; mark-up the page escapes.
    """
    return "".join(map(_shown, str(value).replace("\r\n", "\n")))


def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x20 and character not in _KEPT:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return "\ufffd" if any(code in steering for steering in _STEERING) else character


def finite(value: Any) -> float | None:
    """Return a number as it is; None for what is none: missing, NaN, text, a truth value, or beyond MOST."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -MOST <= value <= MOST else None


def counted(place: float) -> str:
    """Return a step or an update in words."""
    return f"{place:.10g}"


def number(value: Any, digits: int = 3) -> str:
    """Return a number with so many significant digits, thousands with commas; "–" for what is none."""
    found = finite(value)
    if found is None:
        return NOTHING
    if abs(found) >= 1000:
        return f"{found:,.0f}"
    if isinstance(found, int):
        return str(found)
    return f"{found:.{digits}g}"


def percent(share: Any) -> str:
    """Return a share in percent with one digit after the point."""
    found = finite(share)
    return NOTHING if found is None else f"{100 * found:.1f}\u00a0%"


def duration(seconds: float | None) -> str:
    """Return a time in the two units that matter."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def memory(mib: float | None) -> str:
    """Return mebibytes as MiB or GiB."""
    if mib is None:
        return NOTHING
    return f"{mib:,.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def dig(tree: Any, path: str) -> Any:
    """Return the value at a dotted path in nested dictionaries, None where there is none."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
