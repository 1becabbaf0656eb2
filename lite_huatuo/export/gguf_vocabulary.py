"""The tokenizer of an exported model as GGUF metadata, and the Modelfile that gives Ollama its chat template."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from lite_huatuo.errors import ExportError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf's token types
PROBE = "lite-huatuo-probe"
# How llama.cpp calls the ways in which byte-level BPE tokenizers cut text into words. The two with a pattern of their
# own differ in how many digits are a word.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {SPLIT.format(digits=r"\p{N}{1,3}"): "llama-bpe", SPLIT.format(digits=r"\p{N}"): "qwen2"}


class Vocabulary(NamedTuple):
    """Tokens with their types in the order of the embedding's rows, merges as "left right", and how text is cut."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    cut: str


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """Return the vocabulary of a byte-level BPE tokenizer (transformers) for an embedding of `rows` rows."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    if whole["model"]["type"] != "BPE":
        raise ExportError(f"--gguf: {whole['model']['type']} tokenizers are not known here, only byte-level BPE")
    if len(tokenizer) > rows:
        raise ExportError(f"--gguf: the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows")
    added = {token["id"]: token for token in whole["added_tokens"]}
    names = {number: name for name, number in whole["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    tokens, types = [], []
    for number in range(rows):
        tokens.append(names.get(number, f"[PAD{number}]"))
        kind = UNUSED if number not in names else NORMAL
        if number in added:
            kind = CONTROL if added[number]["special"] else USER_DEFINED
        types.append(kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]]
    return Vocabulary(tokens, types, merges, cut(whole["pre_tokenizer"]))


def cut(settings: dict[str, Any] | None) -> str:
    """Return llama.cpp's name for a pre-tokenizer, as tokenizer.json has it."""
    parts = (settings or {}).get("pretokenizers", [settings or {}])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and parts[1].get("use_regex"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        name = PATTERNS.get(parts[0].get("pattern", {}).get("Regex"))
        if name is not None:
            return name
    raise ExportError(
        f"--gguf: how this tokenizer cuts text is not known to llama.cpp by name ({', '.join(map(str, kinds))})"
    )


def modelfile(tokenizer: Any, stops: list[int] | int, file: str) -> str:
    """Return a Modelfile for Ollama: the chat template for one question, as the student was trained, and its stops."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROBE}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = text.partition(PROBE)
    if not found or '"""' in text or "{{" in text:
        raise ExportError("--gguf: the chat template cannot be written as an Ollama template")
    if adds_begin(tokenizer):
        before = before.removeprefix(tokenizer.bos_token)  # the server adds it
    words = [tokenizer.decode([stop]) for stop in (stops if isinstance(stops, list) else [stops])]
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}"""',
        *(f'PARAMETER stop "{word}"' for word in words),  # as it is: Ollama reads UTF-8 and takes no escapes back
    ]
    return "\n".join(lines) + "\n"


def adds_begin(tokenizer: Any) -> bool:
    """True where the tokenizer puts a begin token before a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
