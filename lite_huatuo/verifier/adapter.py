"""The adapter verifier: a LoRA on the student's own base judges, so that no second model is in memory.

Its folder, written by `verifier train`, holds the adapter in plain peft form, verifier.json, and with mode "head" the
head. P(right) = sigmoid(logit / temperature); the logit is read at the last token of the text: by a Linear on its
hidden state (mode "head"), or as the difference of lm_head's " True" and " False" (mode "token").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lite_huatuo import jsonl
from lite_huatuo.errors import BackendError
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.tokenizer import StudentTokenizer
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.prompts import tuned_judge
from lite_huatuo.training.logprobs import microbatches
from lite_huatuo.verifier import exact
from lite_huatuo.verifier.base import Item, Verdict

SETTINGS, HEAD = "verifier.json", "head.safetensors"
WORDS = (" True", " False")


@dataclass(frozen=True)
class Settings:
    """How an adapter judges: its mode, the calibrated temperature, the longest text in tokens, the text's version."""

    mode: Literal["head", "token"] = "head"
    temperature: float = 1.0
    max_length: int = 512
    text_version: int = tuned_judge.VERSION


class AdapterVerifier:
    """Judges with one adapter of a shared base; a reply is right where P is above `threshold`.

    `head` is None with mode "token". No other adapter's outputs change: the base is switched, and switched back.
    """

    background = False  # it works on the base that everyone else uses

    def __init__(
        self,
        shared: SharedBase,
        adapter: str,
        settings: Settings,
        head: ValueHead | None,
        *,
        threshold: float,
        batch_tokens: int = 4096,
    ) -> None:
        self.name = f"adapter ({settings.mode})"
        self.shared, self.adapter, self.settings, self.head = shared, adapter, settings, head
        self.threshold, self.batch_tokens = threshold, batch_tokens
        self.words = [word_id(shared.tokenizer, word) for word in WORDS]
        if head is None and self.words[0] == self.words[1]:
            raise BackendError(f'{WORDS[0]!r} and {WORDS[1]!r} begin with the same token here; train with mode "head"')

    @classmethod
    def load(cls, shared: SharedBase, adapter: str, folder: Path, *, threshold: float) -> AdapterVerifier:
        """Read settings and head of `folder`, whose LoRA `shared` holds under the name `adapter`."""
        try:
            settings = Settings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise BackendError(f"{folder / SETTINGS}: not a verifier's settings ({error}); train it again") from None
        if settings.text_version != tuned_judge.VERSION:
            raise BackendError(
                f"{folder}: was trained on version {settings.text_version} of the judge's text, this is version "
                f"{tuned_judge.VERSION}; train it again"
            )
        head = None
        if settings.mode == "head":
            head = ValueHead(shared.hidden_size).to(shared.device)
            head.load(folder / HEAD)
        return cls(shared, adapter, settings, head, threshold=threshold)

    def save(self, folder: Path) -> None:
        """Write adapter, settings and head into `folder`."""
        self.shared.save(self.adapter, folder)
        if self.head is not None:
            self.head.save(folder / HEAD)
        jsonl.write_text(folder / SETTINGS, json.dumps(asdict(self.settings), indent=2) + "\n")

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item; texts of like length go together."""
        verdicts = []
        for probability in self.probabilities(items):
            if probability != probability:  # not a number
                verdicts.append(Verdict(None, failure="the judging adapter's output is not a number"))
                continue
            verdicts.append(Verdict(probability > self.threshold, f"P = {probability:.3f}", probability))
        return verdicts

    @torch.no_grad()
    def probabilities(self, items: Sequence[Item]) -> list[float]:
        """Return P(right) of every item."""
        rows = [encode(self.shared.tokenizer, item, self.settings.max_length) for item in items]
        found = [0.0] * len(rows)
        groups = microbatches([len(row) for row in rows], budget=self.batch_tokens, padded=not self.shared.packs)
        for group in self.shared.in_step(groups):
            with self.shared.using(self.adapter):
                if group is None:
                    self.shared.idle()
                    continue
                logit = self.logits([rows[i] for i in group]) / self.settings.temperature
            for i, probability in zip(group, torch.sigmoid(logit).tolist(), strict=True):
                found[i] = probability
        return found

    def logits(self, rows: Sequence[list[int]]) -> Tensor:
        """Return the uncalibrated logits (M,) float32 of M texts, with the adapter active in the caller's `using`."""
        hidden = self.shared.states(rows)
        ends = torch.tensor([len(row) for row in rows], device=hidden.device).cumsum(0) - 1
        final = hidden[ends]
        if self.head is not None:
            return self.head(final)
        logits = self.shared.lm_head(final).float()
        return logits[:, self.words[0]] - logits[:, self.words[1]]


def encode(tokenizer: StudentTokenizer, item: Item, max_length: int) -> list[int]:
    """Return the token ids of a text to judge. One that is too long loses the middle of its reply."""
    found = read(item)
    ids = _ids(tokenizer, item.question, item.final_response, found)
    if len(ids) <= max_length:
        return ids
    reply = tokenizer.hf(item.final_response, add_special_tokens=False)["input_ids"]
    room = max(0, len(reply) - (len(ids) - max_length) - 8) // 2
    shorter = f"{tokenizer.decode(reply[:room])} … {tokenizer.decode(reply[len(reply) - room :])}"
    return _ids(tokenizer, item.question, shorter, found)[-max_length:]


def read(item: Item) -> tuple[str, str, float]:
    """Return what is found in the whole reply: the ground truth's nearest aliases, what the rules say, and nearness."""
    aliases, near = tuned_judge.nearest_aliases(item.ground_truth, item.final_response, item.question)
    verdict = exact.judge(item)
    reason = verdict.raw.partition(":")[0]  # without the words that matched: the ground truth shows them
    return aliases, "right" if verdict.correct else f"wrong, {reason}" if reason else "nothing", near


def word_id(tokenizer: StudentTokenizer, word: str) -> int:
    """Return the first token of a verdict's word."""
    return int(tokenizer.hf(word, add_special_tokens=False)["input_ids"][0])


def _ids(tokenizer: StudentTokenizer, question: str, reply: str, found: tuple[str, str, float]) -> list[int]:
    ids: Any = tokenizer.hf(tuned_judge.text(question, reply, *found), add_special_tokens=False)["input_ids"]
    return list(ids)
