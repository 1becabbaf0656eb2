"""The twin's tokenizer: byte-level BPE trained on a few texts, with the special tokens and the turn marks of the base's
family. Its chat template has the family's shape, without system prompts or dates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

VOCABULARY = 512
LLAMA3_VOCABULARY = 128_000  # tokens of text; Llamas with fewer have the marks of another family


@dataclass(frozen=True)
class Family:
    """The marks of a chat: before and after the role, after a message; begin, stop and pad tokens."""

    before: str
    after: str
    end: str
    stop: str
    pad: str
    bos: str | None = None

    @property
    def special(self) -> list[str]:
        """Every special token once."""
        marks = (self.pad, self.bos, self.stop, self.before, self.after.strip(), self.end.strip())
        return list(dict.fromkeys(mark for mark in marks if mark))

    @property
    def template(self) -> str:
        """The chat template, Jinja."""
        head, after, end = (part.replace("\n", "\\n") for part in (self.before, self.after, self.end))
        begin = f"{{{{ '{self.bos}' }}}}" if self.bos else ""
        turn = f"{{{{ '{head}' + message['role'] + '{after}' + message['content'] + '{end}' }}}}"
        opened = f"{{{{ '{head}assistant{after}' }}}}"
        loop = f"{{% for message in messages %}}{turn}{{% endfor %}}"
        return f"{begin}{loop}{{% if add_generation_prompt %}}{opened}{{% endif %}}"


CHATML = Family("<|im_start|>", "\n", "<|im_end|>\n", "<|im_end|>", "<|endoftext|>")
HEADERS = Family(
    "<|start_header_id|>",
    "<|end_header_id|>\n\n",
    "<|eot_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
    "<|begin_of_text|>",
)


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family whose marks a base's chats have, as far as its config.json says: Llama 3's or ChatML."""
    large = int(config.get("vocab_size") or 0) > LLAMA3_VOCABULARY
    return HEADERS if config.get("model_type") == "llama" and large else CHATML


def make_tokenizer(texts: Iterable[str], family: Family) -> Any:
    """Return a transformers tokenizer trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=family.special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=family.stop, pad_token=family.pad, bos_token=family.bos
    )
    tokenizer.chat_template = family.template
    return tokenizer
