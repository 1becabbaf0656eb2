"""Read the JSON object a model was asked for out of the text it wrote: strict in meaning, patient with the wrapping.

Borne: prose and code fences around it, a thinking part before it (in any marks that `thinking_marks` knows), trailing
commas, raw line ends and any Unicode in strings, keys nobody asked for. Not borne: two different objects that both fit,
a key twice, a value of another type, half an object or one inside it. Nothing is guessed; what cannot be read raises
ReplyError with the reason. Time grows linearly with the text.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from typing import Any

from lite_huatuo import thinking_marks
from lite_huatuo.errors import ReplyError

# Where an object with at least one key can begin. An empty object can satisfy none of our schemas.
START = re.compile(r'\{\s*"')
TOKEN = re.compile(
    r'\s*(?:(?P<string>"[^"\\]*(?:\\.[^"\\]*)*")'
    r"|(?P<mark>[{}\[\]:,])"
    r"|(?P<number>-?(?:0|[1-9][0-9]{0,299})(?:\.[0-9]{1,300})?(?:[eE][+-]?[0-9]{1,5})?)"
    r"|(?P<word>true|false|null))",
    re.DOTALL,
)
WORDS = {"true": True, "false": False, "null": None}
SURROGATE = re.compile("[\ud800-\udfff]")
DEPTH = 60  # objects and arrays inside one another; no schema of ours comes near


class _Mismatch(Exception):
    """Why a value does not fit its schema."""


def read_object(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the one object in `text` that satisfies the schema, with the schema's keys only.

    Understood of JSON schema: type object (properties, required), array (items), string, boolean, integer, number, and
    enum. A boolean may be written as the string "true" or "false" in any case. Raise ReplyError, with the reason and an
    excerpt, where no object or several different ones satisfy it.
    """
    assert schema["required"], "a reply's schema is an object with required keys"
    found: list[dict[str, Any]] = []
    thinking = _Thinking(text)
    strange = None if thinking.marks else thinking_marks.unknown(text)
    if strange is not None:
        raise _error(f"it begins with the unknown mark {strange}", text, f"unknown mark {strange}")
    reason = "no JSON object in it"
    position = end = depth = 0  # where to look on; where the last whole object ended; braces open before this one
    while start := START.search(text, position):
        value, position, problem = _parse(text, start.start())
        if value is None:
            reason = problem
            continue
        ended = thinking.look(end, start.start())
        if ended:
            found, depth = [], 0
        between = text[max(end, ended) : start.start()]
        depth, end = max(0, depth + between.count("{") - between.count("}")), position
        if depth:
            reason = "an object inside one that is broken"
            continue
        try:
            fitting = _check(value, schema, "")
        except _Mismatch as error:
            reason = str(error)
            continue
        if len(found) < 2 and fitting not in found:
            found.append(fitting)
    ended = thinking.look(end, len(text))
    if thinking.open or ended:
        where = "inside" if thinking.open else "with"
        raise _error(f"it ended {where} its {thinking.name} part", text, f"ended {where} {thinking.name}")
    if len(found) > 1:
        raise _error("different objects in it fit", text)
    if not found:
        raise _error(reason, text)
    return found[0]


def read_text(text: str) -> str:
    """Return a plain reply without its thinking part and surrounding space; ReplyError where nothing is left, or where
    nobody can say what is thinking and what is the reply."""
    told = thinking_marks.split(text)
    if told.problem:
        raise _error(told.problem, text, told.kind)
    answer = thinking_marks.unframed(told.answer)
    if SURROGATE.search(answer):
        raise _error("it holds half a character (a lone surrogate)", text)
    if not answer:
        raise _error("it is empty", text)
    return answer


class _Thinking:
    """Where thinking begins and ends in a text: `open` where it has begun and not ended, `name` its mark."""

    def __init__(self, text: str) -> None:
        self.marks = deque(thinking_marks.find(text))
        self.open, self.name = False, ""

    def look(self, start: int, end: int) -> int:
        """Take the marks between two places, and return where the last thinking part there ends, 0 where none does."""
        ended = 0
        while self.marks and self.marks[0].start < end:
            mark = self.marks.popleft()
            if mark.start >= start:  # those before are inside an object's strings
                self.name = mark.written if self.name == "" or not mark.closes else self.name
                self.open, ended = not mark.closes, mark.end if mark.closes else ended
        return ended


def _parse(text: str, start: int) -> tuple[dict[str, Any] | None, int, str]:
    """Parse the object at `start`; return (object, its end, "") or (None, where to look for another, the reason).

    Objects still open where this one breaks would break there too, so none of them is tried again. Only the last string
    is: where a closing quote is missing, it swallowed the beginning of the next object.
    """
    stack: list[Any] = []  # open objects and arrays, outermost first
    key, expected = "", "value"
    position = again = start
    while token := TOKEN.match(text, position):
        kind, written = str(token.lastgroup), str(token[token.lastgroup or 0])
        if kind == "string":
            try:
                value: Any = _string(written)
            except ValueError as error:
                return None, again, f"{error} at character {token.start('string')}"
        elif kind == "mark":
            value = {"{": {}, "[": []}.get(written)
        else:
            value = WORDS[written] if kind == "word" else _number(written)
        if written in ("}", "]") and kind == "mark" and expected in ("next", "key or }" if written == "}" else "item"):
            if isinstance(stack[-1], dict) != (written == "}"):
                break
            whole = stack.pop()
            if not stack:
                return whole, token.end(), ""
            expected = "next"
        elif expected == "key or }" and kind == "string":
            if value in stack[-1]:
                return None, again, f"the key {_short(value)} stands twice in one object"
            key, expected = value, ":"
        elif expected == ":" and written == ":":
            expected = "value"
        elif expected == "next" and written == ",":
            expected = _inside(stack[-1])
        elif expected in ("value", "item") and (kind != "mark" or value is not None):
            _put(stack, key, value)
            if kind == "mark":
                stack.append(value)
                if len(stack) > DEPTH:
                    return None, len(text), f"more than {DEPTH} objects and arrays inside one another"
            expected = _inside(value) if kind == "mark" else "next"
        else:
            break
        position = token.end()
        again = token.start("string") + 1 if kind == "string" else position
    rest = text[position : position + 20].strip()
    return None, again, f"its JSON is {f'broken at character {position} ({_short(rest)})' if rest else 'cut off'}"


def _inside(container: Any) -> str:
    """Return what may come first, or after a comma, in an object or an array."""
    return "key or }" if isinstance(container, dict) else "item"


def _put(stack: list[Any], key: str, value: Any) -> None:
    """Put a value where the innermost open object or array wants it."""
    if stack and isinstance(stack[-1], dict):
        stack[-1][key] = value
    elif stack:
        stack[-1].append(value)


def _string(written: str) -> str:
    """Return the text of a JSON string; raw line ends and control characters stand for themselves."""
    try:
        value = str(json.loads(written, strict=False))
    except ValueError:
        raise ValueError("a string with an escape that JSON does not have") from None
    if SURROGATE.search(value):
        raise ValueError("half a character (a lone surrogate)")
    return value


def _number(written: str) -> int | float:
    """Return a JSON number; the token's bounds keep this short work."""
    return int(written) if written.lstrip("-").isdigit() else float(written)


def _check(value: Any, schema: dict[str, Any], where: str) -> Any:
    """Return the value with the schema's keys only; raise _Mismatch where it does not fit."""
    kind = schema["type"]
    if kind == "boolean" and isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    fits = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
    }[kind]
    name = where or "the object"
    if not fits:
        raise _Mismatch(f"{name} must be of type {kind}, not {_short(value)}")
    if "enum" in schema and value not in schema["enum"]:
        raise _Mismatch(f"{name} must be one of {', '.join(map(str, schema['enum']))}, not {_short(value)}")
    if kind == "object":
        missing = [key for key in schema["required"] if key not in value]
        if missing:
            raise _Mismatch(f"{name} lacks the key {missing[0]}; it has {_short(', '.join(value))}")
        known = schema["properties"].items()
        prefix = f"{where}." if where else ""
        return {key: _check(value[key], inner, f"{prefix}{key}") for key, inner in known if key in value}
    if kind == "array":
        return [_check(entry, schema["items"], f"{where}[{number}]") for number, entry in enumerate(value)]
    return value


def _short(value: Any, length: int = 60) -> str:
    """Return a value on one line, cut to `length` characters."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    text = " ".join(value[: 4 * length].split()) if isinstance(value, str) else str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def _error(reason: str, text: str, kind: str = "") -> ReplyError:
    """Return the error that tells why a reply cannot be read and how it begins."""
    return ReplyError(f"the reply cannot be read: {reason}; it begins: {_short(text, 80) or '(nothing)'}", kind)
