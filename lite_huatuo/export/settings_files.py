"""The JSON beside the weights, for transformers 4 and 5: the base's own, changed where the export changed the model.

transformers 5 would write it anew in a form of its own, which transformers 4 (that of many vLLM and SGLang) reads as
another model without a word: it knows `rope_theta` and `rope_scaling`, not `rope_parameters`. So what the base
published is carried along; where the base itself was saved by transformers 5, the older words stand beside the newer.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]
# What tells of the machine that wrote the file, or names code that does not go along.
LOCAL = {
    *("_name_or_path", "_model_name_or_path", "name_or_path", "cache_dir", "is_local", "local_files_only"),
    *("special_tokens_map_file", "tokenizer_file", "auto_map"),
}


def config(own: Settings, rope: Settings | None, *, dtype: str, pad_id: int, untied: bool) -> Settings:
    """Return config.json for the base's `own`; `rope` is what transformers 5 reads from that as rope_parameters."""
    made = {key: value for key, value in own.items() if key not in LOCAL | {"quantization_config"}}
    if "dtype" in made:
        made["dtype"] = dtype
    made |= {"torch_dtype": dtype, "pad_token_id": pad_id}
    if untied:
        made["tie_word_embeddings"] = False
    for key, value in older_rope(rope).items():
        # The base's own words stand; a base in the older form without any scaling has often no key for it.
        if value is not None or "rope_parameters" in own:
            made.setdefault(key, value)
    return made


def older_rope(rope: Settings | None) -> Settings:
    """Return rope_parameters in the words of transformers 4; nothing for a network that has several of them or none."""
    if not rope or any(isinstance(value, dict) for value in rope.values()):
        return {}
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    plain = scaling.get("rope_type", "default") == "default"
    found = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if rope.get(key) is not None}
    return found | {"rope_scaling": None if plain else scaling}


def generation(own: Settings | None, *, stop_ids: list[int], pad_id: int) -> Settings:
    """Return generation_config.json: the base's `own` with the student's stop and pad tokens."""
    made = dict(own or {})
    stops = made.get("eos_token_id")
    if sorted(stops if isinstance(stops, list) else [stops] if isinstance(stops, int) else []) != sorted(stop_ids):
        made["eos_token_id"] = stop_ids
    return made | {"pad_token_id": pad_id}


def tokenizer(own: Settings, *, end: str, pad: str, chat_template: Any) -> Settings:
    """Return tokenizer_config.json: the base's `own` with the student's tokens, and its template where it has one."""
    numbers = {"eos_token_id", "pad_token_id"}  # beside the tokens of these names, which a base from a GGUF file has
    made = special_tokens({key: own[key] for key in own if key not in LOCAL | numbers}, end=end, pad=pad)
    made["padding_side"] = "left"
    if made.get("tokenizer_class") == "TokenizersBackend":
        made["tokenizer_class"] = "PreTrainedTokenizerFast"
    if made.get("add_prefix_space", ...) is None:  # which transformers 4 hands on to what wants true or false
        del made["add_prefix_space"]
    if "chat_template" in made and chat_template is not None:
        made["chat_template"] = chat_template
    return made


def special_tokens(own: Settings, *, end: str, pad: str) -> Settings:
    """Return special tokens by name, the student's among them, in the words of transformers 4."""
    made = dict(own)
    for key, token in (("eos_token", end), ("pad_token", pad)):
        old = made.get(key)
        if (old.get("content") if isinstance(old, dict) else old) != token:
            made[key] = token
    if isinstance(made.get("extra_special_tokens"), list):
        extra, known = made.pop("extra_special_tokens"), made.get("additional_special_tokens") or []
        made["additional_special_tokens"] = known + [token for token in extra if token not in known]
    return made
