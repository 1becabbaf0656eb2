"""The student's tokenizer: queries by its chat template, replies with their stop token, pad never equal to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lite_huatuo.errors import BackendError

_PROBE = "lite-huatuo-probe"
_PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|vision_pad|>", "<|endoftext|>", "<unk>")


class StudentTokenizer:
    """A transformers tokenizer with the few facts training needs.

    `pad_id` is never a stop token. `stop_ids` are all tokens that end a reply (generation config and tokenizer);
    `end_id` is the one the chat template writes after an assistant message: the student is taught to write it.
    """

    def __init__(self, tokenizer: Any, generation_stop_ids: list[int], vocabulary: int) -> None:
        """Wrap `tokenizer`; `vocabulary` is the number of rows of the embedding (a pad token must be one of them)."""
        if not tokenizer.chat_template:
            raise BackendError(
                f"{tokenizer.name_or_path}: has no chat template; name a Jinja file in base.chat_template"
            )
        self.hf = tokenizer
        self.stop_ids = sorted({*generation_stop_ids} or {tokenizer.eos_token_id} - {None})
        if not self.stop_ids:
            raise BackendError(f"{tokenizer.name_or_path}: neither generation config nor tokenizer names a stop token")
        self.end_id = self._template_end()
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(self.end_id)
        self.pad_id = self._choose_pad(vocabulary)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.pad_id)
        tokenizer.padding_side = "left"

    def query(self, question: str) -> list[int]:
        """Return the token ids of a question as the student is asked it: the chat template up to the reply."""
        text = self.hf.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return self.hf(text, add_special_tokens=False)["input_ids"]

    def reply(self, text: str) -> list[int]:
        """Return the token ids of a reply with the stop token at its end."""
        return [*self.hf(text, add_special_tokens=False)["input_ids"], self.end_id]

    def decode(self, ids: list[int]) -> str:
        """Return the text of reply tokens, special tokens left out."""
        return self.hf.decode(ids, skip_special_tokens=True)

    def _template_end(self) -> int:
        """Return the first stop token the template writes after an assistant message, else the first of all."""
        messages = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        text = self.hf.apply_chat_template(messages, tokenize=False)
        tail = self.hf(text.rpartition(_PROBE)[2], add_special_tokens=False)["input_ids"]
        return next((token for token in tail if token in self.stop_ids), self.stop_ids[0])

    def _choose_pad(self, vocabulary: int) -> int:
        """Return a pad token that is not a stop token and has an embedding row."""
        candidates = [
            self.hf.pad_token_id,
            *(self.hf.convert_tokens_to_ids(name) for name in _PAD_NAMES),
            self.hf.unk_token_id,
        ]
        for token in candidates:
            if (
                token is not None
                and token not in self.stop_ids
                and token < vocabulary
                and self.hf.convert_ids_to_tokens(token) is not None
            ):
                return int(token)
        raise BackendError(
            f"{self.hf.name_or_path}: every candidate for a pad token is a stop token; "
            "add one to its tokenizer_config.json"
        )


def refuse_code(name: str, error: Exception) -> None:
    """Raise BackendError where transformers could not load something without running code that comes with it.

    Its own message advises to allow that code.
    """
    if "trust_remote_code" in str(error):
        raise BackendError(
            f"{name}: needs code of its own, which is never run here; choose a model that transformers knows"
        ) from None


def load(folder: str, *, revision: str | None = None, chat_template: str | None = None) -> StudentTokenizer:
    """Load a tokenizer from a folder or the Hub, without its model.

    `chat_template` names a Jinja file that replaces its own.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False)
    except ValueError as error:
        refuse_code(folder, error)
        raise
    try:
        stops = GenerationConfig.from_pretrained(folder, revision=revision or "main").eos_token_id
    except OSError:  # a model without a generation config: its own names the stop token
        stops = config.eos_token_id
    if chat_template is not None:
        path = Path(os.path.expanduser(chat_template))
        if not path.is_file():
            raise BackendError(f"base.chat_template: {chat_template}: no such file")
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    return StudentTokenizer(
        tokenizer, stops if isinstance(stops, list) else [] if stops is None else [stops], config.vocab_size
    )
