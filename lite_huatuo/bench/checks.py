"""The checks of a card, in the order in which they run. A check is the function `run` of the module of its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What a check looks at; the most `seconds` it may take; whether it reads the random base."""

    about: str
    seconds: int
    base: bool = True


CHECKS = {
    "environment": Check("versions, the card, whether NF4 works", 180, base=False),
    "nf4": Check("NF4 on the card beside the CPU, and what a product costs", 60, base=False),
    "base": Check("a random base of that size, made on the card and written to disk", 150, base=False),
    "load": Check("loading the base, and what is left of it when it is dropped", 90),
    "decoding": Check("writing replies, by rows", 120),
    "learning": Check("scoring and learning at the recipe's longest rows", 150),
    "isolation": Check("learning moves the adapters it should, and nothing else", 60),
    "merge": Check("a merged weight gives what base and adapter give", 60),
    "training": Check("both stages, and the second one resumed", 240),
    "tests": Check("the project's own tests on the card; needs a checkout", 180, base=False),
    "unsloth": Check("the unsloth backend beside the plain one, if it is installed", 200),
}
SIZES = ("7b", "1.5b", "tiny")


class NotRun(Exception):
    """A check cannot be run here; the message says why. That is neither a pass nor a failure."""
