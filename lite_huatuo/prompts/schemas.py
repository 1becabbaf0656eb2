"""The JSON schemas of the replies, by template name. All keys required, no others: OpenAI's strict mode takes them as
they are. Templates that are not here ask for plain text.

A `reason` comes before what it is the reason for: a model that writes it first judges better.
"""

from __future__ import annotations

from typing import Any

STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with these keys, all required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_STEP = _object(action={"type": "string", "enum": ["think", "verify"]}, title=STRING, content=STRING)
_THOUGHTS = _object(steps={"type": "array", "items": _STEP}, conclusion=STRING)

SCHEMAS: dict[str, dict[str, Any]] = {
    "solve": _object(answer=STRING),
    "judge_question": _object(reason=STRING, deep=BOOLEAN, unique=BOOLEAN, reformable=BOOLEAN),
    "reformat": _object(question=STRING, ground_truth=STRING),
    "check_reformat": _object(reason=STRING, complete=BOOLEAN, unique=BOOLEAN, same=BOOLEAN),
    "first": _THOUGHTS,
    "verify": _object(correct=BOOLEAN),
    "judge_answer": _object(correct=BOOLEAN),
    "backtracking": _THOUGHTS,
    "exploring": _THOUGHTS,
    "verification": _THOUGHTS,
    "correction": _THOUGHTS,
    "label_guided": _THOUGHTS,
}
