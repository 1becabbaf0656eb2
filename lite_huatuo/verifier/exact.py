"""The exact verifier: is the ground truth stated as the answer? Rules only, no model, the same verdict every time.

1. Fold the reply into sentences of plain words (`medical_terms`).
2. Read the ground truth: every phrase that may stand for it, as "MI" for "myocardial infarction".
3. Find the mentions: the places where the reply holds one of these phrases, in whole words.
4. Strike out a mention that is denied, refused, echoed from the question or one of several answers (`exact_cues`).
5. Verdict: right where a mention is left and no sentence names another answer.

It compares words, not meanings: a right answer in other words is judged wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import dropwhile
from typing import NamedTuple

from lite_huatuo.verifier import exact_cues as cues
from lite_huatuo.verifier import medical_terms as terms
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.medical_terms import HARD, SOFT, Token, normalise

Phrase = tuple[str, ...]
MAX_VARIANTS, MAX_PHRASES, MAX_OPTIONS, MAX_MENTIONS = 48, 4000, 400, 200  # so that no input takes long
CONTEXT = 30  # how many tokens beside a mention are looked at


class ExactVerifier:
    """Judges by rule whether the final response states the ground truth; needs no model and never fails on a reply."""

    name = "exact"

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item."""
        return [judge(item) for item in items]


def judge(item: Item) -> Verdict:
    """Judge one item; a ground truth without any letter or digit is the one thing that cannot be judged."""
    truth = Truth(normalise(item.ground_truth), *read_ground_truth(item.ground_truth))
    if (polarity := truth.words if truth.words.isascii() else truth.words.replace(" ", "")) in terms.YES | terms.NO:
        return judge_polarity(item.final_response, polarity in terms.YES)
    if not truth.phrases:
        return Verdict(None, failure="the ground truth has no letter or digit; give it an answer")
    reply, question = terms.fold_characters(item.final_response), read_question(item.question)
    correct, why = judge_text(reply, truth, question)
    bare = re.sub(r"\([^()]*\)", " ", reply)  # a parenthesis may part the words: "atrioventricular (AV) node"
    if why == "no match" and bare != reply:
        correct, why = judge_text(bare, truth, question)
    return Verdict(correct, f"match: {why}" if correct else why)


def judge_text(text: str, truth: Truth, question: Question) -> tuple[bool, str]:
    """Return whether a text states the ground truth or each part of a list, and why."""
    sentences = cut_sentences(terms.tokenise(text))
    if " ".join(word for sentence in sentences for word in sentence.words) == truth.words:
        return True, truth.words
    correct, why = judge_phrases(sentences, truth.phrases, question)
    for parts in truth.lists if not correct else ():
        verdicts = [judge_phrases(sentences, part, question, alone=False) for part in parts]
        if all(stated for stated, _ in verdicts):
            return True, " + ".join(part for _, part in verdicts)
    return correct, why


def judge_polarity(reply: str, wanted: bool) -> Verdict:
    """Judge a yes/no ground truth by the first polarity that the reply states."""
    text = write([token.text for token in terms.tokenise(reply)]).replace("NO", "no")
    if not (stated := cues.POLARITY.search(text)):
        return Verdict(False, "no polarity stated")
    says = (stated[2] in terms.YES) != bool(stated[1])
    return Verdict(says == wanted, f"{'match' if says == wanted else 'no match'}: says {'yes' if says else 'no'}")


# --- 1. Fold ----------------------------------------------------------------------------------------------------------


class Sentence(NamedTuple):
    """What stands between two stops. `words` are its tokens without commas and colons; `at[k]` is the token of word k."""

    tokens: list[Token]
    words: list[str]
    at: list[int]
    opens: str  # the mark before it: ".", "?" or, in a list, "•"
    closes: str  # the mark after it


class Truth(NamedTuple):
    """A ground truth: its words, the phrases that state it, and its lists, all parts of which state it."""

    words: str
    phrases: frozenset[Phrase]
    lists: list[list[frozenset[Phrase]]]


class Question(NamedTuple):
    """What the rules ask of a question: its words, and what its last sentence asks for."""

    words: str
    asks_odd_one: bool
    asks_diagnosis: bool


def cut_sentences(tokens: list[Token]) -> list[Sentence]:
    """Cut a folded text at its stops."""
    sentences, current, opens = [], [], "."
    for token in [*tokens, Token(".", False)]:
        if token.text not in HARD:
            current.append(token)
            continue
        if current:
            at = [k for k, part in enumerate(current) if part.text not in SOFT]
            sentences.append(Sentence(current, [current[k].text for k in at], at, opens, token.text))
        current, opens = [], token.text
    return sentences


@lru_cache(maxsize=64)
def read_question(text: str) -> Question:
    """Fold a question."""
    sentences = cut_sentences(terms.tokenise(text))
    words = " ".join(word for sentence in sentences for word in sentence.words)
    asked = write([token.text for token in sentences[-1].tokens]) if sentences else ""
    return Question(f" {words} ", bool(cues.ASKS_ODD_ONE.search(asked)), "diagnosis" in words or "诊 断" in words)


def write(tokens: Iterable[str]) -> str:
    """Write tokens as a text for the cues: Chinese without spaces, every other token followed by one."""
    return "".join(token if "\u4e00" <= token[0] <= "\u9fff" or token == "、" else token + " " for token in tokens)


# --- 2. Read the ground truth -----------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def read_ground_truth(text: str) -> tuple[frozenset[Phrase], list[list[frozenset[Phrase]]]]:
    """Return the phrases a ground truth accepts ("A/B", "A or B", "A (B)") and its lists ("A, B and C": every part)."""
    text = terms.fold_characters(text).replace("[", "(").replace("]", ")").strip()
    text = re.sub(r"^(?:[A-H][.:)]\s+|(?:the )?(?:correct |final )?answer(?: is|:)\s+)", "", text, flags=re.IGNORECASE)
    options = dict.fromkeys(half for option in [text, *_alternatives(text)] for half in _halves(option))
    phrases: set[Phrase] = set()
    lists = []
    for option in list(options)[:MAX_OPTIONS]:
        phrases.update(_forms(option) if len(phrases) < MAX_PHRASES else ())
        parts = _split(option, r",\s|;|、|\band\b")
        if 2 <= len(parts) <= 12 and all(len(normalise(part)) > 1 for part in parts):
            lists.append([frozenset(form for half in _halves(part) for form in _forms(half)) for part in parts])
    return frozenset(phrases), lists


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator, but not inside a parenthesis."""
    parts = re.split(rf"(?:{separator})(?![^()]{{0,200}}\))", text)
    return [part.strip() for part in parts if part.strip()]


def _alternatives(text: str) -> list[str]:
    """Split "A/B" and "A or B" where they are alternatives, not "mg/dL", "120/80" or "Na/K"; share a head noun."""
    parts = _split(text, "/")
    units = {unit for sizes in terms.UNITS for unit in sizes}
    names = [p for p in parts if p.lower() not in units and (len(p) > 2 or p.isdigit() or not p.isascii())]
    numbers = sum(part.replace(".", "").isdigit() for part in parts)
    if (len(parts) < 3 and names != parts) or numbers >= max(2, len(parts) // 2):
        parts = [text]
    parts = [piece for part in parts for piece in _split(part, r"\bor\b|或者?")]
    head = " ".join(parts[-1].split()[1:]) if parts else ""
    adjective = re.compile(r"\w+(?:al|ic|ive|ous|ar|ary|ior)|left|right")
    return [f"{part} {head}" if head and adjective.fullmatch(part) else part for part in parts]


def _halves(text: str) -> Iterator[str]:
    """Yield "A B" of "A (B)", then "A" and, where the parenthesis is a name and no mere qualifier, "B"."""
    yield re.sub("[()]", " ", text)
    if not (match := re.search(r"\(([^()]*)\)", text)):
        return
    head, inner, tail = text[: match.start()].strip(), match[1], text[match.end():]
    tail = re.sub(r"\([^()]*\)|[()]", "", tail).strip()
    yield f"{head} {tail}"
    if all(word in terms.QUALIFIERS or not word[-1].isalpha() for word in normalise(inner).split()):
        return
    if tail and head:
        yield " ".join([*head.split()[:-1], inner, tail])
    for piece in _split(inner, r"[,;/、]|\bor\b|或") if not tail else ():
        yield re.sub(r"(?i)^(?:also (?:known as|called)|accept|formerly|previously|aka|i\.e\.|又称|即)\s*", "", piece)


def _forms(text: str) -> Iterator[Phrase]:
    """Yield a phrase, its equals, and their other word orders ("appendicitis, acute", "disease of Parkinson")."""
    for words in variants(tuple(normalise(text).split())):
        if words:
            yield words
        if not 2 <= len(words) <= 5 or {"and", "or", "to", "with"} & set(words) or any(not w.isascii() for w in words):
            continue
        for cut in range(1, len(words)):
            head, tail = words[:cut], words[cut:]
            if tail[0] == "of" and len(tail) > 1:
                yield tail[1:] + head
            elif "of" not in words and len(tail[0]) > 1 and tail[0].isalpha() and not head[0][0].isdigit():
                yield tail + head
                yield (*tail, "of", *head)
            if head[-1] in terms.PREFIXES or (len(words) == 2 and "".join(words).isalpha() and len(head[0]) > 2):
                yield (*head[:-1], head[-1] + tail[0], *tail[1:])


def variants(words: Phrase) -> list[Phrase]:
    """Return a phrase and its equals: each abbreviation, synonym, quantity or prefix in it exchanged, up to a limit."""
    tails: list[list[Phrase]] = [[()]]  # tails[k]: the variants of the last k words
    for position in range(len(words) - 1, -1, -1) if len(words) <= 40 else ():
        rest = words[position:]
        swaps: list[tuple[int, Phrase]] = [(2, equal) for equal in terms.equal_quantities(*rest[:2])]
        swaps += [(1, (start, rest[0].removeprefix(start))) for start in terms.PREFIXES
                  if rest[0].startswith(start) and len(rest[0]) >= len(start) + 4]
        for phrase, equals in terms.synonym_table().get(rest[0], {}).items():
            if rest[: len(phrase)] == phrase:
                swaps += [(len(phrase), equal) for equal in sorted(equals)]
        options = [(rest[0], *tail) for tail in tails[-1]]
        options += [equal + tail for length, equal in swaps for tail in tails[len(rest) - length]]
        tails.append(list(dict.fromkeys(options))[:MAX_VARIANTS])
    return tails[-1] if len(words) <= 40 else [words]


# --- 3. Find the mentions ---------------------------------------------------------------------------------------------


class Mention(NamedTuple):
    """Words `start` to `end` of a sentence, and the tokens before and after them."""

    sentence: Sentence
    start: int
    end: int
    before: list[str]
    after: list[str]


def find_mentions(sentences: list[Sentence], phrases: Iterable[Phrase]) -> list[Mention]:
    """Return the mentions of any phrase; two that touch are one, as are two names: "thiamine or vitamin B1"."""
    places: dict[str, list[tuple[int, int]]] = {}
    for number, sentence in enumerate(sentences):
        for start, word in enumerate(sentence.words):
            places.setdefault(word, []).append((number, start))
    found = [(number, start, start + len(phrase)) for phrase in phrases for number, start in places.get(phrase[0], ())
             if tuple(sentences[number].words[start: start + len(phrase)]) == phrase
             and is_whole(sentences[number], start, start + len(phrase))]
    spans: list[tuple[int, int, int]] = []
    for number, start, end in sorted(found, key=lambda span: (span[0], span[1], -span[2])):
        last_number, last_start, last_end = spans[-1] if spans else (-1, 0, 0)
        if number != last_number or start < last_end < end or not (
                cues.ALIAS_WORDS.issuperset(sentences[number].words[last_end: start])):
            spans.append((number, start, end))
        else:
            spans[-1] = (number, last_start, max(end, last_end))
    if len(spans) > MAX_MENTIONS:
        spans = spans[: MAX_MENTIONS // 2] + spans[-MAX_MENTIONS // 2:]
    return [_with_context(sentences[number], start, end) for number, start, end in spans]


def _with_context(sentence: Sentence, start: int, end: int) -> Mention:
    first, last = sentence.at[start], sentence.at[end - 1] + 1
    before, after = sentence.tokens[max(0, first - CONTEXT): first], sentence.tokens[last: last + CONTEXT]
    return Mention(sentence, start, end, [token.text for token in before], [token.text for token in after])


def is_whole(sentence: Sentence, start: int, end: int) -> bool:
    """False for "12" in "B12", "46" in "46p" and "40 minutes" in "20 to 40 minutes"; "500mg" holds "500"."""
    tokens, words, after = sentence.tokens, sentence.words, sentence.at[end - 1] + 1
    if tokens[sentence.at[start]].glued or (after < len(tokens) and tokens[after].glued and not (
            words[end - 1].isdigit() and any(tokens[after].text in sizes for sizes in terms.UNITS))):
        return False
    if not words[start][0].isdigit() or end - start > 3:
        return True
    around = ["#" if word[0].isdigit() else word for word in words[max(0, start - 2): end + 2]]
    return (start < 2 or around[:2] != ["#", "to"]) and (end + 2 > len(words) or around[-2:] != ["to", "#"])


# --- 4. Strike out ----------------------------------------------------------------------------------------------------


def objection(mention: Mention, question: Question) -> str:
    """Return why a mention does not state its phrase, or "" where it does."""
    before, after = write(mention.before), write(mention.after)
    if cues.DENIED_BEFORE.search(cues.HARMLESS_NOT.sub("", before)):
        return "negated"
    if cues.NOT_THE_ANSWER.match(after) or (cues.DENIED_AFTER.match(after) and not question.asks_odd_one):
        return "denied"
    if mention.sentence.closes == "?" or cues.REFUSES.search(before.rpartition("but ")[2]) or cues.REFUSES.search(after):
        return "asks or refuses"
    return "echoes the question" if is_echo(mention, question) else ""


def is_echo(mention: Mention, question: Question) -> bool:
    """True where a mention and the words beside it stand in the question."""
    words, start, end = mention.sentence.words, mention.start, mention.end
    size = max(4, end - start + 2) if words[start].isascii() else max(8, end - start + 4)
    return any(f" {' '.join(words[first: first + size])} " in question.words
               for first in range(max(0, end - size), min(start, len(words) - size) + 1))


def is_listed(mention: Mention, several: bool, rows: set[Phrase]) -> bool:
    """True where a mention is one of several candidates: "X or Y", a list item, a sentence or comma row of names."""
    before, after = write(mention.before), write(mention.after)
    if tuple(mention.sentence.words) in rows:
        return True
    if several and mention.sentence.opens == "•" and not cues.COMMITS.search(before + after):
        return True
    return bool(cues.OR_AFTER.match(after) or cues.OR_BEFORE.search(before)) or in_row(mention)


def in_row(mention: Mention) -> bool:
    """True in a row of names: three with "and" or "or" ("X, Y and Z"), or five without."""
    left, right = _pieces(mention.before), _pieces(mention.after)
    row = []  # the other names
    if cues.ROW_JOINTS.issuperset(left[-1]):
        row += _names(reversed(left[:-1]), nearest=-1)
    if not right[0] or right[0][0] in cues.ROW_JOINTS:
        row += _names(right if right[0] else right[1:], nearest=0)
    joined = any(cues.ROW_JOINTS.intersection(piece[:1]) for piece in [left[-1], *row])
    return len(row) + 1 >= (3 if joined else 5)


def _names(pieces: Iterable[list[str]], nearest: int) -> list[list[str]]:
    """Return the pieces that carry on a row; the last one need only begin (or end) as a name: "and gout is rare"."""
    row = []
    for piece in pieces:
        name = [word for word in piece if word not in cues.ROW_JOINTS]
        if not name or name[nearest] in cues.NOT_IN_A_NAME:
            break
        row.append(piece)
        if not is_name(piece):
            break
    return row


def _pieces(tokens: list[str]) -> list[list[str]]:
    """Cut tokens at the commas."""
    pieces: list[list[str]] = [[]]
    for token in tokens:
        if token == ",":
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def is_name(words: Sequence[str]) -> bool:
    """True for a few words without a verb or preposition, as "acute gout"."""
    return 1 <= len(words) <= (4 if "".join(words).isascii() else 10) and cues.NOT_IN_A_NAME.isdisjoint(words)


def lone_names(sentences: list[Sentence]) -> set[Phrase]:
    """Return the sentences that are bare names, as "It is gout", where at least three different ones stand."""
    found = {}
    for sentence in sentences:
        name = tuple(dropwhile(cues.LEADS.__contains__, (token.text for token in sentence.tokens[:16])))
        if is_name(name):
            found[name] = tuple(sentence.words)
    return set(found.values()) if len(found) >= 3 else set()


# --- 5. Verdict -------------------------------------------------------------------------------------------------------


def judge_phrases(sentences: list[Sentence], phrases: Iterable[Phrase], question: Question,
                  alone: bool = True) -> tuple[bool, str]:
    """Return whether a phrase is stated as the answer, and why; `alone` is False for one part of a list."""
    mentions = find_mentions(sentences, phrases)
    rows = lone_names(sentences) if mentions and alone else set()
    several = sum(sentence.opens == "•" for sentence in sentences) > 1
    stated, hedged, reason = None, False, "no match"
    for mention in mentions:
        why = objection(mention, question)
        if not why and alone and is_listed(mention, several, rows):
            why = "several answers listed"
        if why:
            reason, hedged = why, hedged or why in ("several answers listed", "asks or refuses")
            stated = None if why == "denied" else stated
        elif not hedged or cues.COMMITS.search(write(mention.before) + write(mention.after)):
            stated = stated or mention
    if stated and alone and names_another(sentences, mentions, question):
        return False, "another answer stated"
    return (True, " ".join(stated.sentence.words[stated.start: stated.end])) if stated else (False, reason)


def names_another(sentences: list[Sentence], mentions: list[Mention], question: Question) -> bool:
    """True where a sentence "the answer is ..." (or "the diagnosis is ...", if that was asked) holds no mention."""
    mentioned = [mention.sentence for mention in mentions]
    for sentence in sentences:
        named = cues.NAMES_THE_ANSWER.search(write(token.text for token in sentence.tokens[:60]))
        if named and (question.asks_diagnosis or named[1] in ("answer", "答案")) and sentence not in mentioned:
            return True
    return False
