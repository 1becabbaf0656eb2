"""Is one model the same as another? Next-token distributions on fixed prompts, compared as mean KL per position."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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


class Parity(NamedTuple):
    """Mean KL(expected || found) per position in nats, and the share of positions with the same first choice."""

    kl: float
    same_first_choice: float


@torch.no_grad()
def distributions(
    logits: Callable[[Tensor], Tensor], tokenizer: StudentTokenizer, device: torch.device
) -> list[Tensor]:
    """Return log-probabilities (T, V), float32 on the CPU, for each prompt; `logits` maps ids (1, T) to (1, T, V)."""
    return [
        torch.log_softmax(logits(torch.tensor([tokenizer.query(prompt)], device=device))[0].float(), -1).cpu()
        for prompt in PROMPTS
    ]


def compare(expected: list[Tensor], found: list[Tensor]) -> Parity:
    """Compare two models' distributions on the fixed prompts."""
    kl = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(expected, found, strict=True)])
    same = torch.cat([p.argmax(-1) == q.argmax(-1) for p, q in zip(expected, found, strict=True)])
    return Parity(kl.mean().item(), same.float().mean().item())
