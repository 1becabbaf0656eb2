"""The classifier verifier: a sequence-classification model, such as the published 3B verifier, judges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lite_huatuo import hub_access
from lite_huatuo.errors import BackendError
from lite_huatuo.training.logprobs import microbatches
from lite_huatuo.verifier.base import Item, Verdict

FIELDS = ("question", "response", "ground_truth")
NEEDED = ("response", "ground_truth")
_FIELD = re.compile(r"\{(question|response|ground_truth)\}")


class ClassifierVerifier:
    """Judges by P(label) of an AutoModelForSequenceClassification, right where it is above `threshold`.

    `template` is the text the model was trained to read, with {question}, {response} and {ground_truth} to be filled
    in. A model with a single output gives P by the logistic function, others by the softmax over their labels. Where a
    text is longer than the model reads, there is no verdict: cut, it would be another text.
    """

    background = False

    def __init__(
        self,
        model: str,
        *,
        template: str,
        revision: str | None = None,
        quantization: Literal["nf4", "none"] = "none",
        label: int = 1,
        threshold: float = 0.4,
        batch_tokens: int = 8192,
    ) -> None:
        check_template(template)
        self.name = f"classifier ({model.rstrip('/').rpartition('/')[2]})"
        self.template, self.label, self.threshold, self.batch_tokens = template, label, threshold, batch_tokens
        self.tokenizer, self.model = _load(model, revision, quantization)
        outputs = self.model.config.num_labels
        if label >= outputs and not (outputs == 1 and label == 1):
            raise BackendError(f"verifier.label: {label}; {model} has the labels 0 to {outputs - 1}")
        self.longest = _longest(self.model.config, self.tokenizer)

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item; texts of like length go together."""
        ids = [self.tokenizer(fill(self.template, item))["input_ids"] for item in items]
        verdicts: list[Verdict | None] = [None] * len(items)
        for place, tokens in enumerate(ids):
            if len(tokens) > self.longest:
                reason = f"a text of {len(tokens)} tokens; the classifier reads {self.longest}"
                verdicts[place] = Verdict(None, failure=reason)
        fitting = [place for place, verdict in enumerate(verdicts) if verdict is None]
        for group in microbatches([len(ids[place]) for place in fitting], budget=self.batch_tokens):
            places = [fitting[index] for index in group]
            for place, probability in zip(places, self._probabilities([ids[p] for p in places]), strict=True):
                verdicts[place] = self._verdict(probability)
        return [verdict for verdict in verdicts if verdict is not None]

    def _verdict(self, probability: float) -> Verdict:
        if probability != probability:  # not a number
            return Verdict(None, failure="the classifier's output is not a number")
        return Verdict(probability > self.threshold, f"P(right) = {probability:.4f}", probability)

    def _probabilities(self, group: list[list[int]]) -> list[float]:
        """Return P(right) of some texts as token ids, padded to the longest."""
        import torch

        width = max(map(len, group))
        pad = self.model.config.pad_token_id
        tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids in group], device=self.model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in group], device=self.model.device)
        with torch.no_grad():
            logits = self.model(input_ids=tokens, attention_mask=mask).logits.float()
        if logits.shape[-1] == 1:
            return list(torch.sigmoid(logits[:, 0]).tolist())
        return list(torch.softmax(logits, dim=-1)[:, self.label].tolist())


def check_template(template: str) -> None:
    """Raise BackendError where a template leaves out what is to be judged."""
    missing = [f"{{{field}}}" for field in NEEDED if f"{{{field}}}" not in template]
    if missing:
        raise BackendError(f"verifier.template: {' and '.join(missing)} is missing; write it where the text is to go")


def fill(template: str, item: Item) -> str:
    """Return the template with an item's texts put in literally: braces in a text are only braces."""
    values = {"question": item.question, "response": item.final_response, "ground_truth": item.ground_truth}
    return _FIELD.sub(lambda match: values[match[1]], template)


def _load(name: str, revision: str | None, quantization: str) -> tuple[Any, Any]:
    """Return (tokenizer, model) on the GPU where there is one; BackendError where either cannot be had."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu else torch.float32
    small = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if not Path(name).is_dir():
        hub_access.require(name, "verifier.model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            dtype=dtype,
            quantization_config=small if quantization == "nf4" else None,
            device_map={"": "cuda" if gpu else "cpu"},
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if "trust_remote_code" in str(error):  # transformers' own advice is to allow it
            reason = "it needs code of its own, which is never run here"
        raise BackendError(f"verifier.model: {name}: cannot be loaded ({reason})") from None
    if model.config.pad_token_id is None:
        # Where the tokenizer has none, the end of text: texts do not hold it, and the mask hides it.
        pad = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    if model.config.pad_token_id is None:
        raise BackendError(f"verifier.model: {name}: has no padding token; set pad_token_id in its config.json")
    return tokenizer, model.eval()


def _longest(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a text may have."""
    return min(getattr(config, "max_position_embeddings", None) or 1 << 30, tokenizer.model_max_length or 1 << 30)
