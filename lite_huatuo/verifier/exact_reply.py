"""A reply as the exact verifier reads it: sentences of folded words, and the places where a phrase stands in them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from lite_huatuo.verifier import exact_cues as cues
from lite_huatuo.verifier import exact_frames as frames
from lite_huatuo.verifier import medical_terms as terms
from lite_huatuo.verifier.medical_terms import HARD, SOFT, Token

Phrase = tuple[str, ...]
Phrases = dict[str, list[Phrase]]  # by first word, the longest first
Reply = list["Sentence"]
MAX_MENTIONS = 200  # so that nothing takes long
CONTEXT = 30  # how many tokens before and after a mention are looked at


class Sentence(NamedTuple):
    """What stands between two stops; `words` are its tokens without commas, and `at[k]` is the token of word k."""

    tokens: list[Token]
    words: Phrase
    at: list[int]
    opens: str  # the mark before it: ".", "?" or, in a list, "•"
    closes: str  # the mark after it

    @property
    def text(self) -> str:
        """Its beginning, written for the cues."""
        return cues.write(token.text for token in self.tokens[: 2 * CONTEXT])


class Question(NamedTuple):
    """A question: its words, and what its last sentence asks for."""

    words: str
    asks_odd_one: bool
    asks_diagnosis: bool


def last_section(text: str) -> str:
    """Return what stands after the label of a final section, without headings; all of it where that is nothing."""
    last = 0
    for label in frames.LAST_SECTION.finditer(text):
        if any(c.isalnum() for c in text[label.end() :]):
            last = label.end()
    body = frames.HEADING.sub("", text[last:])
    return body if any(c.isalnum() for c in body) else text


def cut_sentences(text: str) -> Reply:
    """Fold a text and cut it at its stops."""
    sentences = []
    current: list[Token] = []
    opens = "."
    for token in [*terms.tokenise(text), Token(".", False)]:
        if token.text not in HARD:
            current.append(token)
            continue
        if current:
            at = [k for k, part in enumerate(current) if part.text not in SOFT]
            sentences.append(Sentence(current, tuple(current[k].text for k in at), at, opens, token.text))
        current, opens = [], token.text
    return sentences


@lru_cache(maxsize=64)
def read_question(text: str) -> Question:
    """Fold a question."""
    sentences = cut_sentences(text)
    words = " ".join(word for sentence in sentences for word in sentence.words)
    last = sentences[-1].text if sentences else ""
    last = last.rpartition(",")[2] if not last.isascii() else cues.NOT_IN_THE_STORY.sub("", last)
    asks_odd_one = bool(cues.ASKS_ODD_ONE.search(last))
    return Question(f" {words} ", asks_odd_one, "diagnosis" in words or "诊 断" in words)


class Mention(NamedTuple):
    """Words `start` to `end` of a sentence."""

    sentence: Sentence
    start: int
    end: int

    @property
    def words(self) -> Phrase:
        """The words of the mention."""
        return self.sentence.words[self.start : self.end]

    @property
    def before(self) -> list[str]:
        """The tokens before it in its sentence."""
        first = self.sentence.at[self.start]
        return [token.text for token in self.sentence.tokens[max(0, first - CONTEXT) : first]]

    @property
    def after(self) -> list[str]:
        """The tokens after it in its sentence."""
        last = self.sentence.at[self.end - 1] + 1
        return [token.text for token in self.sentence.tokens[last : last + CONTEXT]]


def find_mentions(reply: Reply, phrases: Phrases) -> list[Mention]:
    """Return the mentions of any phrase; two names of the same thing are one: "thiamine (vitamin B1)"."""
    mentions: list[Mention] = []
    for sentence in reply:
        last = Mention(sentence, 0, 0)
        for start, end in _places(sentence, phrases):
            if 0 < last.end <= start and cues.ALIAS_WORDS.issuperset(sentence.words[last.end : start]):
                start = mentions.pop().start
            if end > last.end:
                last = Mention(sentence, start, end)
                mentions.append(last)
    return mentions if len(mentions) <= MAX_MENTIONS else mentions[: MAX_MENTIONS // 2] + mentions[-MAX_MENTIONS // 2 :]


def _places(sentence: Sentence, phrases: Phrases) -> Iterator[tuple[int, int]]:
    """Yield where a phrase begins and ends, the longest of those that begin at the same word."""
    for start, word in enumerate(sentence.words):
        for phrase in phrases.get(word, ()):
            end = start + len(phrase)
            if sentence.words[start:end] == phrase and is_whole(sentence, start, end):
                yield start, end
                break


def is_whole(sentence: Sentence, start: int, end: int) -> bool:
    """False for "12" in "B12" and "46" in "46p": a digit and a letter without a space between them are one word."""
    first, after = sentence.at[start], sentence.at[end - 1] + 1
    return not any(token.glued for token in (sentence.tokens[first], *sentence.tokens[after : after + 1]))
