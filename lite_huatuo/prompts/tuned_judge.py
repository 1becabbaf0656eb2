"""What a verifier adapter reads. It is trained on this text, so a change of it needs a new VERSION and new adapters.

It holds what the rules of the exact verifier found and how near the reply is to the ground truth in letters, so that an
adapter need not learn either.
"""

from __future__ import annotations

import re
import unicodedata

VERSION = 2
MOST_ALIASES = 3  # of a ground truth that is a list; some hold hundreds
SHARES = ("none", "few", "some", "many", "most", "all")  # of the letters, in fifths


def text(question: str, final_response: str, ground_truth: str, rules: str, near: float) -> str:
    """Return one thing to judge; the next token is the verdict.

    `rules` is a short word on what the rules said, `near` the nearness from 0 to 1. It comes last, in one word: the
    verdict is read there, and a small model that has seen a few hundred replies does not find it further back.
    """
    return (
        f"Question: {question}\nRight answer: {ground_truth}\nReply: {final_response}\n"
        f"Is the reply right? Rules say: {rules}. Letters in common: {SHARES[round(5 * near)]}"
    )


def nearest_aliases(ground_truth: str, final_response: str, question: str) -> tuple[str, float]:
    """Return the ground truth, cut to the aliases nearest to the reply, and how near the nearest is (`nearness`).

    Aliases stand between "/". The nearest comes first; up to MOST_ALIASES aliases stay as they are.
    """
    aliases = list({alias.casefold(): alias for part in ground_truth.split("/") if (alias := part.strip())}.values())
    near = {alias: nearness(alias, final_response, question) for alias in aliases}
    highest = max(near.values(), default=0.0)
    if len(aliases) <= MOST_ALIASES:
        return ground_truth, highest
    return "/".join(sorted(aliases, key=lambda alias: -near[alias])[:MOST_ALIASES]), highest


def nearness(phrase: str, reply: str, question: str) -> float:
    """Return which share of a phrase's runs of three letters the reply holds, from 0 to 1.

    Runs that the question holds say nothing, and do not count where the phrase has others.
    """
    whole = _runs(phrase)
    telling = whole - _runs(question) or whole
    return len(telling & _runs(reply)) / len(telling) if telling else 0.0


def _runs(text: str) -> set[str]:
    """Return the runs of three letters of a text's words, without case and accents; a word's ends are letters too."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return {
        word[i : i + 3] for part in re.findall(r"\w+", plain) for word in [f" {part} "] for i in range(len(word) - 2)
    }
