"""Step 4 of the exact verifier: why a mention does not state its phrase as the answer."""

from __future__ import annotations

import re

from lite_huatuo.verifier import exact_cues as cues
from lite_huatuo.verifier import exact_frames as frames
from lite_huatuo.verifier.exact_reply import Mention, Phrase, Question, Reply


def objection(mention: Mention, question: Question, reply: Reply) -> str:
    """Return why a mention does not state its phrase, or "" where it does."""
    before, after = cues.write(mention.before), cues.write(mention.after)
    return (
        _denied(mention, before, after, question)
        or _left_open(mention, before, after, reply)
        or _spoken_of(before, after, question)
        or ("taken back" if is_taken_back(mention, after, reply) else "")
        or ("echoes the question" if is_echo(mention, question) else "")
    )


def _denied(mention: Mention, before: str, after: str, question: Question) -> str:
    """Return "negated", "denied" or "part of a range" where the words beside a mention say so."""
    words = cues.HARMLESS_NOT.sub("", frames.MUST_NOT.sub("", before) if question.asks_odd_one else before)
    if cues.DENIED_BEFORE.search(words) or (not question.asks_odd_one and frames.AVOIDS.search(before)):
        return "negated"
    if cues.NOT_THE_ANSWER.match(after) or (cues.DENIED_AFTER.match(after) and not question.asks_odd_one):
        return "denied"
    if frames.NOT_IT.search(after) and not question.asks_odd_one:
        return "negated"
    spared = frames.SPARED.match(after)
    if spared and f" {spared[1].strip()} " not in question.words and not cues.COMMITS.search(before + after):
        return "negated"
    if mention.words[0][0].isdigit() and (cues.RANGE_BEFORE.search(before) or cues.RANGE_AFTER.match(after)):
        return "part of a range"
    return "counts something else" if counts_something_else(mention, after, question) else ""


def counts_something_else(mention: Mention, after: str, question: Question) -> bool:
    """True where a number is followed by what the question does not ask for: "300 mg of clopidogrel"."""
    counted = frames.COUNTED.match(after)
    if not counted or not frames.ASKS_HOW_MUCH.search(question.words) or not mention.words[0][0].isdigit():
        return False
    if len(mention.words) > 1 and not counted[1]:
        return False
    clause = set(after.partition(",")[0].split())
    return not frames.FILLS.match(counted[2] + " ") and not any(
        f" {word} " in question.words for word in clause if len(word) > 3
    )


def _left_open(mention: Mention, before: str, after: str, reply: Reply) -> str:
    """Return "asks or refuses" or "several answers listed" where the reply does not settle on a mention."""
    refused = cues.REFUSES.search(before.rpartition("but ")[2]) or cues.REFUSES.search(after)
    if refused or mention.sentence.closes == "?" or frames.LEAVES_OPEN.search(before):
        return "asks or refuses"
    against = frames.AGAINST_BEFORE.search(before) or frames.AGAINST_AFTER.match(after)
    if against or frames.BETWEEN.search(before + "x " + after):
        return "several answers listed"
    guess = frames.GUESS.search(before) or frames.GUESS.match(after)
    sides = [after, *(sentence.text for sentence in later(mention, reply)[:1])]
    return "several answers listed" if guess and any(frames.GUESS.search(side) for side in sides) else ""


def _spoken_of(before: str, after: str, question: Question) -> str:
    """Return "spoken of" where a sentence names a mention without giving it as the answer."""
    commits = cues.COMMITS.search(after)
    other = frames.OTHER_PERSON.search(before)
    frame = (
        frames.SPOKEN_ABOUT.match(after)
        or frames.LABEL_BEFORE.match(before)
        or frames.TITLE_AFTER.match(after)
        or frames.CONDITION_BEFORE.search(before)
        or (frames.CONDITION_AFTER.match(after) and not commits)
        or (other and other[0].split()[0] not in question.words)
        or frames.LIKE_BEFORE.search(before)
        or frames.LIKE_AFTER_ZH.match(after)
        or frames.FIRST_THOUGHT.search(before)
        or frames.FIRST_THOUGHT_AFTER.match(after)
    )
    return "spoken of" if frame else ""


def later(mention: Mention, reply: Reply) -> Reply:
    """Return the sentences after that of a mention."""
    place = next(k for k, sentence in enumerate(reply) if sentence is mention.sentence)
    return reply[place + 1 : place + 4]


def is_taken_back(mention: Mention, after: str, reply: Reply) -> bool:
    """True where the next words correct what was said: "gout. Correction: pseudogout"."""
    return bool(frames.TAKES_BACK.search(". ".join([after, *(sentence.text for sentence in later(mention, reply))])))


def is_echo(mention: Mention, question: Question) -> bool:
    """True where a mention and the words beside it stand in the question."""
    words = mention.sentence.words
    beside = 2 if mention.words[0].isascii() else 4  # words or Chinese characters
    size = max(2 * beside, len(mention.words) + beside)
    starts = range(max(0, mention.end - size), min(mention.start, len(words) - size) + 1)
    return any(f" {' '.join(words[start : start + size])} " in question.words for start in starts)


def is_listed(mention: Mention, reply: Reply) -> bool:
    """True where a mention is one of several candidates: "X or Y", "X, Y and Z", an item of a list."""
    before, after = cues.write(mention.before), cues.write(mention.after)
    if cues.OR_AFTER.match(after) or cues.OR_BEFORE.search(before) or is_in_row(before, after):
        return True
    if frames.BARE_ROW.fullmatch(mention.sentence.text):
        return True
    item = mention.sentence.opens == "•" and not cues.COMMITS.search(before + after)
    return item and sum(sentence.opens == "•" for sentence in reply) > 1


def lists_only(mentions: list[Mention], reply: Reply, rows: set[Phrase]) -> bool:
    """True where at least two names of the ground truth are listed and nothing else: it has several, all accepted."""
    if len({mention.words for mention in mentions}) < 2:
        return False
    holding = {id(mention.sentence) for mention in mentions}
    items = [sentence for sentence in reply if sentence.opens == "•" or sentence.words in rows]
    if items:
        return all(id(sentence) in holding for sentence in items)
    for sentence in {id(mention.sentence): mention.sentence for mention in mentions}.values():
        names = frames.JOINT.split(" " + sentence.text)
        if len(names) > 1 and len(names) > sum(mention.sentence is sentence for mention in mentions):
            return False
    return True


def is_in_row(before: str, after: str) -> bool:
    """True in a row of names: three with "and" or "or" ("X, Y and Z"), or four without."""
    left, right = cues.ROW_BEFORE.findall(before)[0], cues.ROW_AFTER.findall(after)[0]  # both match the empty text
    names = left[0].count(",") + 1 + right[0].count(",") + bool(right[1])
    return names >= (3 if left[1] or right[1] else 4)


def lone_names(reply: Reply) -> set[Phrase]:
    """Return the sentences that are bare names ("It is gout"), where at least three different ones stand."""
    names = {match[1]: sentence.words for sentence in reply if (match := cues.LONE_NAME.fullmatch(sentence.text))}
    return set(names.values()) if len(names) >= 3 else set()


def in_rows(mention: Mention, rows: set[Phrase]) -> bool:
    """True where a mention is one of the bare names, or stands among them as a sentence of its own."""
    words = mention.sentence.words
    return words in rows or (bool(rows) and mention.words == words)


def names_another(reply: Reply, mentions: list[Mention], stated: list[Mention], question: Question) -> bool:
    """True where a sentence gives another answer.

    That is "the answer is ..." (or "the diagnosis is ...", if that was asked) in a sentence that holds no mention, or
    "so it is ...", "故为…" with no mention that counts in what it concludes.
    """
    nouns = ("answer", "答案", "diagnosis", "诊断") if question.asks_diagnosis else ("answer", "答案")
    mentioned = [id(mention.sentence) for mention in mentions]
    after = False
    for sentence in reply:
        match = cues.NAMES_THE_ANSWER.search(sentence.text)
        if match and match[1] in nouns and id(sentence) not in mentioned:
            return True
        if concluded := frames.CONCLUDES.search(sentence.text):
            name = concluded[1] or concluded[2]
            size = len(name.split()) if name.isascii() else len(name)
            kept = (mention for mention in stated if mention.sentence is sentence)
            if not any(mention.end > len(sentence.words) - size for mention in kept):
                return True
        after = after or sentence is stated[0].sentence
        if after and id(sentence) not in mentioned and names_rival(sentence.text, stated[0], question):
            return True
    return False


def names_rival(text: str, stated: Mention, question: Question) -> bool:
    """True where a sentence gives another name of the stated one's kind for what was asked.

    "The posterior descending artery comes from the left circumflex artery", for "right coronary artery"; or
    "hypercalcemia makes them tall" where the question's verb is "makes" and the mention does something else.
    """
    start = re.match(r"(?:\S+ ){2,3}", text)
    asked = start is not None and f" {start[0]}" in question.words
    noun = stated.words[-1]
    for match in frames.POINTS_TO.finditer(text) if asked and len(stated.words) > 1 else ():
        if match[1].split()[-1] == noun and f" {match[1].strip()} " not in question.words:
            return True
    said = frames.VERB_AFTER.match(cues.write(stated.after))
    does = frames.DOES.match(text)
    return bool(
        said
        and does
        and stated.start == 0
        and f" {said[1]} " not in question.words
        and f" {does[1]} " not in question.words
        and re.search(rf"\b(?:which|what) (?:\S+ ){{1,5}}?{does[2]} ", question.words)
    )
