"""Is one model the same as another? Next-token distributions and greedy texts on fixed prompts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lite_huatuo.models.tokenizer import StudentTokenizer

PROMPTS = (
    "Which vitamin deficiency causes night blindness?",
    "A patient with crushing chest pain and ST elevation arrives in the emergency room. What is the diagnosis?",
    "Explain in one sentence how insulin lowers blood glucose.",
    "Which nerve is compressed in carpal tunnel syndrome?",
    "What is 12 + 30?",
    "Write a short greeting.",
    "缺乏哪种维生素会引起夜盲症？",
    "胰岛素由哪个器官分泌？",
)

# Largest mean KL (nats) between the exported model and base + unmerged adapter: what one rounding may cost.
TOLERANCE = {"bfloat16": 1e-2, "float16": 1e-3, "float32": 1e-5}


REPLY_TOKENS = 32  # of each greedy text


class Answers(NamedTuple):
    """What a model says to the fixed prompts: log-probabilities (T, V), float32, on the CPU; greedy replies."""

    distributions: list[Tensor]
    texts: list[str]


class Parity(NamedTuple):
    """Mean KL(expected || found) per position in nats, share of positions with the same first choice, equal texts."""

    kl: float
    same_first_choice: float
    same_texts: int


@torch.no_grad()
def ask(model: Any, tokenizer: StudentTokenizer) -> Answers:
    """Ask a causal language model all prompts."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=REPLY_TOKENS, do_sample=False, eos_token_id=tokenizer.stop_ids, pad_token_id=tokenizer.pad_id
    )
    distributions, texts = [], []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.query(prompt)], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0]
        distributions.append(torch.log_softmax(logits.float(), -1).cpu())
        replies = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        texts.append(tokenizer.decode(replies[0, ids.shape[1] :].tolist()))
    return Answers(distributions, texts)


def compare(expected: Answers, found: Answers) -> Parity:
    """Compare two models' answers to the fixed prompts."""
    pairs = list(zip(expected.distributions, found.distributions, strict=True))
    kl = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in pairs])
    same = torch.cat([p.argmax(-1) == q.argmax(-1) for p, q in pairs])
    texts = sum(p == q for p, q in zip(expected.texts, found.texts, strict=True))
    return Parity(kl.mean().item(), same.float().mean().item(), texts)
