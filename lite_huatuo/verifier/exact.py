"""The exact verifier: is the ground truth stated as the answer? Rules only, no model, the same verdict every time.

1. Fold the reply into sentences of plain words (`medical_terms`).
2. Read the ground truth: every phrase that may stand for it, as "MI" for "myocardial infarction".
3. Find the mentions: the places where the reply holds one of these phrases, in whole words.
4. Strike out a mention that is denied, refused, echoed from the question or one of several (`exact_cues`).
5. Verdict: right where a mention is left and no sentence names another answer.

It compares words, not meanings: a right answer in other words is judged wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from lite_huatuo.verifier import exact_cues as cues
from lite_huatuo.verifier import exact_frames as frames
from lite_huatuo.verifier import medical_terms as terms
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.exact_objections import in_rows, is_listed, lists_only, lone_names, names_another, objection
from lite_huatuo.verifier.exact_reply import (
    Mention,
    Phrase,
    Phrases,
    Question,
    Reply,
    cut_sentences,
    find_mentions,
    last_section,
    read_question,
)
from lite_huatuo.verifier.medical_terms import normalise

MAX_WORDS, MAX_VARIANTS, MAX_OPTIONS = 40, 48, 200  # so that nothing takes long
MOST = 50_000  # characters: of a reply and a question their end is read, a longer ground truth is none


class ExactVerifier:
    """Judges by rule whether the final response states the ground truth; needs no model and never fails on a reply."""

    name = "exact"
    background = False

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item."""
        return [judge(item) for item in items]


def judge(item: Item) -> Verdict:
    """Judge one item; a ground truth without any letter or digit, or of many pages, is all that cannot be judged."""
    if len(item.ground_truth) > MOST:
        return Verdict(None, failure=f"the ground truth has more than {MOST:,} characters; give a short answer")
    reply = cut_sentences(last_section(item.final_response[-MOST:]))
    truth, question = read_ground_truth(item.ground_truth), read_question(item.question[-MOST:])
    bare = truth.words.replace(" ", "")
    if not truth.phrases:
        return Verdict(None, failure="the ground truth has no letter or digit; give it an answer")
    said = " ".join(word for sentence in reply for word in sentence.words)
    if truth.words in (said, normalise(item.final_response[-MOST:])):
        return Verdict(True, f"match: {truth.words}")
    if bare in terms.YES | terms.NO:
        return judge_polarity(reply, bare in terms.YES)
    if frames.TO_THE_JUDGE.search(" ".join(sentence.text for sentence in reply)):
        return Verdict(False, "speaks to the judge")
    stated, why = judge_phrases(reply, truth.phrases, question)
    for parts in truth.lists if not stated else ():
        verdicts = [judge_phrases(reply, part, question, alone=False) for part in parts]
        if all(part_stated for part_stated, _ in verdicts):
            stated, why = True, " + ".join(part for _, part in verdicts)
            break
    return Verdict(stated, f"match: {why}" if stated else why)


def judge_polarity(reply: Reply, wanted: bool) -> Verdict:
    """Judge a yes/no ground truth by the first polarity that the reply states."""
    found = cues.POLARITY.search(". ".join(sentence.text for sentence in reply).lower())
    if not found:
        return Verdict(False, "no polarity stated")
    says = ((found[2] or found[4]) in terms.YES) != bool(found[1])
    return Verdict(says == wanted, f"{'match' if says == wanted else 'no match'}: says {'yes' if says else 'no'}")


# --- 2. Read the ground truth -----------------------------------------------------------------------------------------


class Truth(NamedTuple):
    """A ground truth: its words, the phrases that state it, and its lists, of which every part must be stated."""

    words: str
    phrases: Phrases
    lists: list[list[Phrases]]


@lru_cache(maxsize=4096)
def read_ground_truth(text: str) -> Truth:
    """Read what a ground truth accepts: "A/B", "A or B" and "A (B)" either half, "A, B and C" every part."""
    bare = cues.LABEL.sub("", terms.fold_characters(text).strip())
    options = dict.fromkeys(half for option in [bare, *_alternatives(bare)] for half in halves(option))
    phrases: set[Phrase] = set()
    lists = []
    for option in list(options)[:MAX_OPTIONS]:
        phrases.update(_forms(option))
        parts = _split(option, r",\s|;|、|\band\b")
        if 2 <= len(parts) <= 12:
            lists.append([_by_first_word({form for half in halves(part) for form in _forms(half)}) for part in parts])
    return Truth(normalise(text), _by_first_word(phrases), lists)


def _by_first_word(phrases: set[Phrase]) -> Phrases:
    table: Phrases = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        table.setdefault(phrase[0], []).append(phrase)
    return table


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator, but not inside a parenthesis."""
    parts = re.split(rf"(?:{separator})(?![^()]{{0,200}}\))", text)
    return [part.strip() for part in parts if part.strip()]


def _alternatives(text: str) -> list[str]:
    """Split "A/B" and "A or B", but not "mg/dL", "120/80" or "Na/K"; "viral or bacterial rash" share their noun."""
    parts = _split(text, "/")
    units = {unit for sizes in terms.UNITS for unit in sizes}
    ratio = all(len(p) < 3 or (p.replace(".", "").isdigit() and len(p) < 4) for p in parts)  # 1999/2001 are years
    if ratio or (len(parts) == 2 and any(p.lower() in units for p in parts)):
        parts = [text]
    parts = [piece for part in parts for piece in _split(part, r"\bor\b|或者?")]
    first, _, noun = parts[-1].partition(" ") if parts else ("", "", "")
    lacks = [bool(noun and cues.ADJECTIVE.fullmatch(part) and part.lower() != first.lower()) for part in parts]
    return [f"{part} {noun.strip()}" if lack else part for part, lack in zip(parts, lacks, strict=True)]


def halves(text: str) -> Iterator[str]:
    """Yield "A B" of "A (B)", then "A" and, where the parenthesis is a name and no mere qualifier, "B"."""
    yield re.sub("[()]", " ", text)
    if not (match := re.search(r"\(([^()]*)\)", text)):
        return
    inner, tail = match[1], re.sub(r"\([^()]*\)|[()]", "", text[match.end() :]).strip()
    yield f"{text[: match.start()]} {tail}"
    qualifies = all(word in terms.QUALIFIERS or not word.isalpha() for word in normalise(inner).split())
    if not qualifies and not tail:
        yield from (cues.ALSO_CALLED.sub("", piece) for piece in _split(inner, r"[,;/、]|\bor\b|或"))


def _forms(text: str) -> Iterator[Phrase]:
    """Yield a phrase, its equals, and their other word orders ("appendicitis, acute", "disease of Parkinson")."""
    for words in variants(tuple(normalise(text).split())):
        if words:
            yield words
        if len(words) > 1 and words[0] in cues.LEADS_UP:
            yield words[1:]
        if len(words) > 1 and words[0].isdigit() and words[1] in cues.MONTHS:
            yield from ((words[1], day, *words[2:]) for day in (words[0], f"{words[0]}th"))
        elif len(words) > 1 and words[0] in cues.MONTHS and words[1].isdigit():
            yield from ((day, words[0], *words[2:]) for day in (words[1], f"{words[1]}th"))
        if len(words) > 2 and len(words[0]) == len(words[1]) == 1 and words[0].isalpha() and words[1].isalpha():
            yield (words[0] + words[1], *words[2:])
        if not 2 <= len(words) <= 5 or not "".join(words).isascii() or {"and", "or", "to", "with"} & set(words):
            continue
        for cut in range(1, len(words)):
            head, tail = words[:cut], words[cut:]
            if tail[0] == "of" and tail[1:]:
                yield (*tail[1:], *head)
            elif "of" not in words and len(tail[0]) > 1 and tail[0].isalpha():
                yield from ((*tail, *head), (*tail, "of", *head))
            if head[-1] in terms.PREFIXES:
                yield (*head[:-1], head[-1] + tail[0], *tail[1:])


def variants(words: Phrase) -> list[Phrase]:
    """Return a phrase and its equals: each abbreviation, synonym, quantity or prefix in it exchanged, up to a limit."""
    if len(words) > MAX_WORDS:
        return [words]
    tails: list[list[Phrase]] = [[()]]  # tails[k]: the variants of the last k words
    for position in reversed(range(len(words))):
        rest = words[position:]
        swaps: list[tuple[int, Phrase]] = [(1, rest[:1])]  # how many words give way to which
        swaps += [(2, equal) for equal in terms.equal_quantities(*rest[:2])]
        swaps += [
            (1, (start, rest[0].removeprefix(start)))
            for start in terms.PREFIXES
            if rest[0].startswith(start) and len(rest[0]) >= len(start) + 4
        ]
        for phrase, equals in terms.synonym_table().get(rest[0], {}).items():
            if rest[: len(phrase)] == phrase:
                swaps += [(len(phrase), equal) for equal in sorted(equals)]
        options = [equal + tail for length, equal in swaps for tail in tails[len(rest) - length]]
        tails.append(list(dict.fromkeys(options))[:MAX_VARIANTS])
    return tails[-1]


# --- 5. Verdict -------------------------------------------------------------------------------------------------------


def judge_phrases(reply: Reply, phrases: Phrases, question: Question, alone: bool = True) -> tuple[bool, str]:
    """Return whether a phrase is stated as the answer, and why; `alone` is False for one part of a list."""
    mentions = find_mentions(reply, phrases)
    rows = lone_names(reply) if mentions and alone else set()
    stated: list[Mention] = []
    hedged, reason = False, "no match"
    for mention in mentions:
        why = objection(mention, question, reply)
        if not why and alone and (in_rows(mention, rows) or is_listed(mention, reply)):
            why = "" if lists_only(mentions, reply, rows) else "several answers listed"
        if why:
            reason, hedged = why, hedged or why in ("several answers listed", "asks or refuses")
            stated = [] if why == "denied" else stated
        elif not hedged or cues.COMMITS.search(cues.write(mention.before + mention.after)):
            stated.append(mention)
    if stated and alone and names_another(reply, mentions, stated, question):
        return False, "another answer stated"
    return (True, " ".join(stated[0].words)) if stated else (False, reason)
