"""Answers of chat endpoints made from any bytes: finish reasons, thinking marks, usage, parts, errors, in any mixture.

Each byte chooses one thing; what is left over is text. Prices of `PROFILE` are a dollar a token, so that no token can
hide in a rounding.
"""

from __future__ import annotations

from typing import Any

from lite_huatuo.data import profile as profiles

PROFILE = profiles.load("local", ("prices={input: 1000000.0, output: 1000000.0}",))
HIDDEN = "HIDDEN thinking"
REASONS: list[Any] = [
    *("stop", "STOP", "end_turn", "eos_token", "COMPLETE", "length", "MAX_TOKENS", "max_tokens", "model_length"),
    *("content_filter", "SAFETY", "network_error", "insufficient_system_resource", "tool_calls", "", None, 7, "odd"),
]
MARKS = [
    *(("", ""), ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"), ("", "</think>")),
    *(("<unused94>thought\n", "<unused95>"), ("<|channel>thought\n", "<channel|>"), ("◁think▷", "◁/think▷")),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    *(("analysis", "assistantfinal"), ("<seed:think>", "</seed:think>"), ("<ponder>", "</ponder>")),
    *(("<think>", ""), ("<|brainstorm|>", ""), ("[PONDER]", "[/PONDER]")),
]
ERRORS: list[Any] = [
    None,
    {},
    "words",
    {"message": "no", "code": 402},
    {"message": "no", "code": "odd"},
    {"code": []},
    {"code": "9" * 5000},
    ["no"],
    {"error": {"code": "²"}},
    True,
]


def made(data: bytes) -> dict[str, Any]:
    """Return the answer that follows from the bytes."""
    chosen = iter(data)

    def choose(values: list[Any]) -> Any:
        return values[next(chosen, 0) % len(values)]

    def number() -> Any:
        byte = next(chosen, 5)
        return byte if byte < 200 else [0, -1, 1.5, None, "7", 2**70, True][byte % 7]

    opens, closes = choose(MARKS)
    thought = f"{opens}{HIDDEN}{closes}" if opens or closes else ""
    reason, form, error = choose(REASONS), choose(list(range(8))), choose(ERRORS if next(chosen, 0) > 200 else [None])
    usage: Any = {"prompt_tokens": number(), "completion_tokens": number(), "total_tokens": number()}
    usage["completion_tokens_details"] = choose([None, {"reasoning_tokens": number()}])
    usage = choose([usage, usage, None, {}, {"input_tokens": 5, "output_tokens": number()}])
    text = thought + bytes(chosen).decode("utf-8", "replace")
    part = {"type": "text", "text": text}
    hidden = {"type": "thinking", "thinking": [{"type": "text", "text": HIDDEN}]}
    content = [text, text, [part], [hidden, part], [hidden], None, [part, {"type": "odd"}], ["", part]][form]
    message: dict[str, Any] = {"role": "assistant", "content": content, "reasoning_content": HIDDEN if form else None}
    answer: dict[str, Any] = {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}
    return answer if error is None else {**answer, "error": error}


def texts(answer: dict[str, Any]) -> list[str]:
    """Return the texts of an answer's message, hidden ones apart."""
    content = answer["choices"][0]["message"]["content"]
    parts = content if isinstance(content, list) else [content or ""]
    return [part if isinstance(part, str) else part.get("text", "") for part in parts]


def sold(answer: dict[str, Any]) -> float:
    """Return the least that an answer says it sold, in dollars: no count that it names may be left out."""
    usage = answer["usage"] or {}
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    if not all(type(count) is int and 0 <= count < 10**9 for count in counts.values()):
        return 0.0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if type(reasoning) is not int or not 0 <= reasoning < 10**9:
        return 0.0
    written = counts["completion_tokens"]
    least = max(counts["prompt_tokens"] + written, counts["total_tokens"], counts["prompt_tokens"] + reasoning)
    silent = counts["prompt_tokens"] == 0 or least == counts["prompt_tokens"]
    return 0.0 if silent else float(least)
