"""The text of a verifier adapter: a list of aliases is cut to the nearest, and the finding of the rules is in it."""

from __future__ import annotations

import hashlib

import pytest

from lite_huatuo.prompts import tuned_judge
from lite_huatuo.prompts.tuned_judge import MOST_ALIASES, nearest_aliases, nearness
from lite_huatuo.verifier.adapter import read
from lite_huatuo.verifier.base import Item

SWANS = "Cob (bird)/Cygninae/Cygnus (genus)/Wild Swan/Swan/Cygnini/Swanling/swan"
# Of the text. Where this fails, raise VERSION and write the new digest here: adapters are trained on this text.
PUBLISHED = (2, "9e1ec8d9268618d9")


def shown(question: str, reply: str, truth: str) -> str:
    return tuned_judge.text(question, reply, *read(Item(question, reply, truth)))


def test_a_change_of_the_text_is_a_new_version() -> None:
    text = shown("Which bird?", "It is a wild swan.", SWANS) + shown("When?", "In late 1969, I think", "1 May 1969")
    assert (tuned_judge.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == PUBLISHED


def test_the_nearest_aliases_come_first_and_the_others_go() -> None:
    cut, near = nearest_aliases(SWANS, "It is a wild swan.", "Which bird?")
    assert cut.split("/")[0] == "Wild Swan"
    assert "swan" in cut.split("/")
    assert len(cut.split("/")) == MOST_ALIASES
    assert near == 1.0


def test_an_alias_that_only_differs_in_case_is_shown_once() -> None:
    cut, _ = nearest_aliases("Heron/SWAN/Swan/swan/Crane/Stork", "a swan", "Which bird?")
    assert cut.casefold().count("swan") == 1


@pytest.mark.parametrize("truth", ["mg/dL", "swan", "1999/2001", " A / B/C ", "", "/", "上/中/下"])
def test_a_short_list_stays_to_the_letter(truth: str) -> None:
    assert nearest_aliases(truth, "swan", "What?")[0] == truth


def test_nearness_is_the_share_of_letters_that_the_reply_holds() -> None:
    assert nearness("Zoroastrian", "It was Zoroastrianism.", "Which religion?") == pytest.approx(10 / 11)
    assert nearness("Bíró", "LASZLO BIRO", "Who?") == 1.0
    assert nearness("Latin", "Greek", "Which language?") == 0.0
    assert nearness("…", "Greek", "Which language?") == 0.0


def test_words_of_the_question_bring_nobody_nearer_unless_there_are_no_others() -> None:
    question = "Which religion was in Persia?"
    assert nearness("Zoroastrian religion", "The religion was Islam.", question) < 0.1
    assert nearness("religion", "The religion was Islam.", question) == 1.0


@pytest.mark.parametrize(
    ("reply", "truth", "finding"),
    [
        ("It is a swan.", "swan", "Rules say: right. Letters in common: all"),
        ("It is a heron.", "swan", "Rules say: wrong, no match. Letters in common: none"),
        ("It is not a swan.", "swan", "Rules say: wrong, negated. Letters in common: all"),
        ("It is a swan.", "…", "Rules say: nothing. Letters in common: none"),
        ("Yes, it is.", "no", "Rules say: wrong, no match. Letters in common: none"),
        ("Zoroaster", "Zoroastrian", "Rules say: wrong, no match. Letters in common: many"),
    ],
)
def test_the_text_tells_what_was_found(reply: str, truth: str, finding: str) -> None:
    text = shown("Which bird?", reply, truth)
    assert text == f"Question: Which bird?\nRight answer: {truth}\nReply: {reply}\nIs the reply right? {finding}"
