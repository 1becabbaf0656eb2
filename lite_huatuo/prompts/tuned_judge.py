"""What a verifier adapter reads. It is trained on this text, so a change of it needs a new VERSION and new adapters."""

from __future__ import annotations

VERSION = 1


def text(question: str, final_response: str, ground_truth: str) -> str:
    """Return one thing to judge; the next token is the verdict."""
    return f"Question: {question}\nRight answer: {ground_truth}\nReply: {final_response}\nIs the reply right?"
