"""The score of a reply. Its three values live here and nowhere else (1.0 right, 0.1 wrong, 0.0 without the form).

Source: HuatuoGPT-o1 (arXiv 2412.18925), section 3.2, "Reward".
"""

from __future__ import annotations

from lite_huatuo.verifier.base import Verdict

RIGHT = 1.0
WRONG = 0.1
NO_FORM = 0.0


def score(well_formed: bool, verdict: Verdict | None) -> float | None:
    """Return the score of one reply, or None where the verifier failed and the episode must be dropped.

    A reply without the form scores `NO_FORM` and needs no verdict; a well-formed one needs one.
    """
    if not well_formed:
        return NO_FORM
    assert verdict is not None, "a well-formed reply is scored by a verdict"
    if verdict.failure is not None:
        return None
    return RIGHT if verdict.correct else WRONG
