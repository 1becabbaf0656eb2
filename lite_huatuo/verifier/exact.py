"""The exact verifier: is the ground truth stated as the answer? Rules only, no model, the same verdict every time.

A reply is right where it mentions the ground truth (or an equal of it, see `medical_terms`) in whole words at least
once and that mention is neither denied, nor one of several candidates, nor a repetition of the question, nor asked.
It compares words, not meanings: a right answer in other words is judged wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from lite_huatuo.verifier import medical_terms as terms
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.medical_terms import HARD, SOFT, normalise

Phrase = tuple[str, ...]
Span = tuple[int, int]
_MAX_VARIANTS, _MAX_PHRASES, _MAX_MENTIONS, _CONTEXT = 48, 4000, 200, 30
# Cues, matched on the folded words beside a mention; those are at most `_CONTEXT`, so no pattern can run away.
_W = (r"(?:(?!(?:but|however|because|since|so|therefore|thus|hence|although|though|yet|while|which|that|who|rather|is"
      r"|are|was|were|include|including|than|in|by|with|for|from|on|at|to|into|not|[,:.、]) )\S+ )")
_FILL = ("(?:(?:any|be|been|to|due|caused|by|because|of|likely|most|more|very|simply|primarily|typical|it|this|as"
         "|consistent|with|from|related|case|answer|diagnosis|cause|correct|right|evidence|sign|explained) )*")
_NEGATED_BEFORE = [re.compile(r"\b" + pattern + "$") for pattern in (
    rf"(?:not|never) {_W}{{0,2}}(?:think|believe|case|sure|convinced|true) (?:(?!but |[,:.] )\S+ ){{0,7}}",
    "(?:do|doe|did|can|could|should|would|will|may|might|must) (?:not|never) (?:be|suggest|support|indicate|fit|have"
    f"|represent|consider|diagnose|point|mean|show|favor|confirm|reflect|explain|choose|select) {_FILL}{_W}{{0,3}}",
    r"(?<!\bdo )(?<!\bdoe )(?<!did )(?<!can )(?<!could )(?<!should )(?<!would )(?<!will )(?<!may )(?<!might )(?<!must "
    rf")(?:not|no|never|neither|nor) (?!only |just |merely |doubt |surprisingly |longer |other ){_FILL}{_W}{{0,3}}",
    rf"(?:not|no|neither|rule out|ruled out|exclude|excluded|excluding) (?:{_W}|, ){{1,12}}(?:or|nor) {_W}{{0,2}}",
    rf"(?:rul(?:e|ed|ing) out|(?:exclud|eliminat)(?:e|ed|ing)|reject(?:ed)?|dismiss(?:ed)?) (?:: )?{_W}{{0,3}}",
    r"(?:rather than|instead of|opposed to|unlike|(?<!none )(?<!no )other than|except(?: for)?|without|anything but"
    rf"|compared? (?:to|with)|contrast (?:to|with)|mistaken for|confused with|mimic|whereas) {_W}{{0,3}}",
    rf"(?:differ|different|differentiated?|distinct|distinguish|distinguished) (?:\S+ ){{0,3}}from {_W}{{0,3}}",
    rf"(?:unlikely|improbable|less likely|incorrect|wrong) (?:to be |due to |that it is |is |: )?{_W}{{0,2}}",
    rf"(?:argue|evidence) against {_W}{{0,3}}", rf"(?:more|better|greater) {_W}{{0,2}}than {_W}{{0,2}}",
    rf"(?:although|while|though) {_W}?")]
_NEGATED_BEFORE.append(re.compile(
    "(?:(?:不是|并非|而非|排除|除外|不考虑|不支持|不符合|不太可能是|不像|不属于|不能诊断为?|不应诊断为?|没有|未见|未发现"
    "|否认|不同于|区别于|有别于|不提示)(?:(?!而是|但|应为|应是|才是|[,:.?•]).){0,8}|(?:不是|并非|排除|不考虑)"
    "(?:(?!而是|但|应|[,:.?•]).){0,40}(?:、|或|和|及)[^,:.]{0,3}|[非无]|(?:虽然|尽管).{0,3}|(?<![切去清消])除|除了.{0,6})$"))
_AUX = "(?:(?:is|are|was|were|be|been|seem|appear|can|could|would|has|have|may|might|doe|do|did|therefore|also|here) )"
_DENIED_AFTER = re.compile(
    rf"(?:, )?(?:{_AUX}+(?:not|never) (?:\S+ ){{0,2}}?(?:answer|diagnosis|likely|correct|right|case|culprit|best|it"
    rf"|consistent|fit|match|explain|considered|supported)|{_AUX}+(?:very |most |clearly |highly |considered but )?"
    "(?:incorrect|wrong|false|excluded|ruled? out|unlikely|improbable|less likely|eliminated|dismissed|rejected"
    "|inconsistent|contraindicated)|on other hand|in contrast|by contrast)\\b|.{0,4}?(?:除外|(?:可以?|能|应|被|已|予以"
    "|可能性)?(?:排除|不成立|不正确|不对|错误|不大|较小|很小)|不太可能|可能性(?:小|低|不大)|不符|不支持|不考虑)"
    "|(?:并?不是|并非)(?:.{0,4}答案|.{0,4}诊断|正确)")
_DENIED_ALWAYS = re.compile(rf"{_AUX}+not (?:correct |right |best )?answer\b")
_OR_AFTER = re.compile(
    rf"(?:{_W})?(?:, )?or (?!(?:if|when|in|at|by|with|without|more|less|not|so|even|to|other|simply|any|similar|its) )"
    "|(?:(?!的|是|可|为)[\u4e00-\u9fff]){0,3}(?:, )?(?:、|或|还是|抑或)(?!者?称)")
_OR_BEFORE = re.compile(rf"(?:\bor {_W}{{0,2}}|\beither {_W}?"
                        "|(?:、|或者?|还是|抑或)(?:(?!支持|提示|是|为|诊断|考虑|符合)[^,.:?、]){0,4})$")
_NAMED = re.compile("(?:known a|known as|called|termed|named|aka|又称|也称|亦称|也叫|又名|即|称为|简称)[^.?]{0,40}$")
_COMMITS = re.compile(r"\b(?:answer|diagnosis|likely|therefore|thus|conclude|conclusion|best|correct|favor|choose|final"
                      r"|consistent|it is|this is|suggest|point)\b|最可能|答案|诊断|因此|所以|综上|应为|考虑|最终|选")
_REFUSES = re.compile(
    r"\b(?:i|we) (?:\S+ ){0,2}?(?:can not|could not|unable|do not know|did not|not sure|not able)|\bunable to (?:answer"
    r"|say|determine|provide)|\bcan not (?:be )?(?:answer|answered|determine|determined|say|provide)|\bas ai\b"
    "|(?:not enough|insufficient) information|不知道|无法(?:回答|确定|判断|作答)|不能回答|不确定")
_LEAD = re.compile("^(?:(?:it|this|or|perhaps|maybe|possibly|could|may|might|would|be|is|also|then|and) )+")
_CJK = re.compile("[\u4e00-\u9fff]")
_NAME = ("(?:(?!(?:is|are|was|were|be|been|has|have|had|can|may|will|doe|did|which|that|who|because|from|in|by|with|for"
         "|to|cause|treat|show|suggest|and|or|是|为|的|可|应|[,:、.?•]) )\\S+ )")  # a word of a bare name
_PIECES_BEFORE = re.compile(rf"((?:{_NAME}{{1,4}}, )*)((?:and |or )?)$")
_PIECES_AFTER = re.compile(rf"((?:, {_NAME}{{1,4}}(?=, |$))*)((?:,? ?(?:and|or) )?)")
_ANSWER_IS = re.compile(
    r"(\banswer|\bdiagnosis|答案|诊断)(?: (?:\S+ ){0,5}?(?:is|be|:) |(?:应?[是为]|: ))(?!made|based|confirmed"
    "|established|supported|not|reached|clinical|often|usually|a follow)(?=\\w)")
_ASKS_ODD_ONE = re.compile(r"\b(?:not|except|least|false|incorrect|contraindicated|avoid|avoided|unlikely|never|wrong|"
                           r"untrue|exclude|excluded|ineffective|unsuitable|inappropriate)\b|[不非无]|错误|除外|禁")


class ExactVerifier:
    """Judges by rule whether the final response states the ground truth; needs no model and never fails on a reply."""

    name = "exact"

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item."""
        return [judge(item) for item in items]


def judge(item: Item) -> Verdict:
    """Judge one item; a ground truth without any letter or digit is the one thing that cannot be judged."""
    bare = normalise(item.ground_truth).replace(" ", "" if not item.ground_truth.isascii() else " ")
    if bare in terms.YES | terms.NO:
        return _judge_polarity(item.final_response, bare in terms.YES)
    phrases, lists = read_ground_truth(item.ground_truth)
    if not phrases:
        return Verdict(None, failure="the ground truth has no letter or digit; give it an answer")
    question = " ".join(token.text for token in terms.tokenise(item.question)) + " "
    reply = terms.fold_characters(item.final_response)
    for text in dict.fromkeys((reply, re.sub(r"\([^()]*\)", " ", reply))):  # a parenthesis may part an answer's words
        stream = Reply(text)
        correct, said = stream.judge(phrases, question, single=True)
        if not correct and " ".join(word for word in stream.words if word not in HARD) == normalise(item.ground_truth):
            correct, said = True, "the ground truth itself"
        for parts in lists if not correct else ():
            found = [stream.judge(part, question, single=False) for part in parts]
            if correct := all(ok for ok, _ in found):
                said = " + ".join(what for _, what in found)
                break
        if correct or said != "no match":
            return Verdict(correct, f"match: {said}" if correct else said)
    return Verdict(False, "no match")


def _judge_polarity(reply: str, wanted: bool) -> Verdict:
    """Judge a yes/no ground truth by the first polarity that the reply states."""
    text = " ".join(token.text for token in terms.tokenise(reply)).replace("NO", "no")
    text = re.sub("(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])", "", text)
    stated = re.search(r"(?:^|\b(?:answer|statement|it|this|that|claim|答案)[^.?]{0,20}?(?:is |: |是|为)(not |不)?)"
                       r"(yes|true|no|false|不是|并非|没有|不|否|错|是|对|正确)(?![A-Za-z])", text)
    if not stated:
        return Verdict(False, "no polarity stated")
    says = (stated[2] in terms.YES) != bool(stated[1])
    return Verdict(says == wanted, f"{'match' if says == wanted else 'no match'}: says {'yes' if says else 'no'}")


@lru_cache(maxsize=4096)
def read_ground_truth(text: str) -> tuple[frozenset[Phrase], list[list[frozenset[Phrase]]]]:
    """Return the phrases a ground truth accepts ("A/B", "A or B", "A (B)") and its lists ("A, B and C": every part)."""
    text = terms.fold_characters(text).replace("[", "(").replace("]", ")").strip()
    text = re.sub(r"^(?:[A-H][.:)]\s+|(?:the )?(?:correct |final )?answer(?: is|:)\s+)", "", text, flags=re.IGNORECASE)
    options = dict.fromkeys(half for option in [text, *_alternatives(text)] for half in _halves(option))
    phrases: set[Phrase] = set()
    lists = []
    for option in list(options)[:400]:
        phrases.update(_forms(option) if len(phrases) < _MAX_PHRASES else ())
        parts = _split(option, r",\s|;|、|\band\b")
        if 2 <= len(parts) <= 12 and all(len(normalise(part)) > 1 for part in parts):
            lists.append([frozenset(form for half in _halves(part) for form in _forms(half)) for part in parts])
    return frozenset(phrases), lists


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator, but not inside a parenthesis."""
    parts, depth = [""], 0
    for piece in re.split(f"([()]|{separator})", text):
        depth = max(0, depth + (piece == "(") - (piece == ")"))
        if depth == 0 and re.fullmatch(separator, piece):
            parts.append("")
        else:
            parts[-1] += piece
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
        tails.append(list(dict.fromkeys(options))[:_MAX_VARIANTS])
    return tails[-1] if len(words) <= 40 else [words]


def _text(tokens: Iterable[str]) -> str:
    """Write tokens as a text for the cues: Chinese without spaces, every other token followed by one."""
    return "".join(token if _CJK.match(token) or token == "、" else token + " " for token in tokens)


@lru_cache(maxsize=64)
def _grams(question: str, size: int) -> frozenset[Phrase]:
    words = [word for word in question.split() if word not in HARD | SOFT]
    return frozenset(tuple(words[start: start + size]) for start in range(max(1, len(words) - size + 1)))


class Reply:
    """A reply as tokens: where it mentions a phrase, and how. A span counts `words`, which leave out the soft marks."""

    def __init__(self, text: str) -> None:
        """Cut the text; `at[k]` is the token of word k, `starts` and `ends` bound the sentence of each token."""
        self.marked = terms.tokenise(text)
        self.tokens = [token.text for token in self.marked]
        self.at = [k for k, token in enumerate(self.tokens) if token not in SOFT]
        self.words = [self.tokens[k] for k in self.at]
        self.where: dict[str, list[int]] = {}
        for k, word in enumerate(self.words):
            self.where.setdefault(word, []).append(k)
        hard = [k for k, token in enumerate(self.tokens) if token in HARD]
        self.sentences = [(a + 1, b) for a, b in zip([-1, *hard], [*hard, len(self.tokens)], strict=True)]
        self.starts = [a for a, b in self.sentences for _ in range(a, b + 1)]
        self.ends = [b for a, b in self.sentences for _ in range(a, b + 1)]

    def judge(self, phrases: Iterable[Phrase], question: str, single: bool) -> tuple[bool, str]:
        """Return whether a phrase is stated as the answer, and why; `single` is False for one part of a list."""
        spans = self._mentions(phrases)
        fragments = self._fragments() if spans and single else set()
        reason, stated, blocked, last = "no match", None, False, None
        for span in spans:
            before, after = self._context(span)
            status = self._status(span, question, before, after)
            if last and last[0] == span[0] and last[1] in ("negated", "denied"):
                status = last[1]  # "not thiamine (vitamin B1)": a second name of what is denied
            last = (span[1], status)
            if status == "ok" and single and self._is_listed(span, spans, fragments, before, after):
                status = "several answers listed"
            if status == "ok":  # after a list or a refusal, only a commitment counts
                stated = stated or (span if not blocked or _COMMITS.search(before + after) else None)
                continue
            reason, stated = status, None if status == "denied" else stated
            blocked = blocked or status in ("several answers listed", "asks or refuses")
        other = self._other_answer(spans, "diagnosis" in question or "诊 断" in question) if stated and single else ""
        return (True, " ".join(self.words[slice(*stated)])) if stated and not other else (False, other or reason)

    def _mentions(self, phrases: Iterable[Phrase]) -> list[Span]:
        """Return the spans that are one of the phrases, whole words only, the longest of overlapping ones."""
        places = ((p, start, start + len(p)) for p in phrases for start in self.where.get(p[0], ()))
        spans = [(start, end) for phrase, start, end in places if self.words[end - 1: end] == [phrase[-1]]
                 and tuple(self.words[start:end]) == phrase and self._is_whole(start, end)]
        kept: list[Span] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if not kept or end > kept[-1][1]:
                kept.append((start, end))
        return kept if len(kept) <= _MAX_MENTIONS else kept[: _MAX_MENTIONS // 2] + kept[-_MAX_MENTIONS // 2:]

    def _is_whole(self, start: int, end: int) -> bool:
        """False for "12" in "B12", "46" in "46p" and "40 minutes" in "20 to 40 minutes"; "500mg" holds "500"."""
        after = self.at[end - 1] + 1
        if self.marked[self.at[start]].glued or (after < len(self.tokens) and self.marked[after].glued and not (
                self.words[end - 1].isdigit() and any(self.tokens[after] in sizes for sizes in terms.UNITS))):
            return False
        if not self.words[start][0].isdigit() or end - start > 3:
            return True
        around = ["#" if word[0].isdigit() else word for word in self.words[max(0, start - 2): end + 2]]
        return (start < 2 or around[:2] != ["#", "to"]) and (end + 2 > len(self.words) or around[-2:] != ["to", "#"])

    def _context(self, span: Span) -> tuple[str, str]:
        """Return what stands before and after a span in its sentence: folded tokens, each followed by a space."""
        first, last = self.at[span[0]], self.at[span[1] - 1] + 1
        before = self.tokens[max(self.starts[first], first - _CONTEXT): first]
        after = self.tokens[last: min(self.ends[last - 1], last + _CONTEXT)]
        return _text(before), _text(after)

    def _status(self, span: Span, question: str, before: str, after: str) -> str:
        """Return "ok" for a mention that states its phrase, else why it does not."""
        start, end = span
        if any(cue.search(before) for cue in _NEGATED_BEFORE) or re.match("相?鉴别", after):
            return "negated"
        asked = _text(re.split(r" [.?] ", question.rstrip(" .?"))[-1].split())
        if _DENIED_ALWAYS.match(after) or (_DENIED_AFTER.match(after) and not _ASKS_ODD_ONE.search(asked)):
            return "denied"
        closing = self.ends[self.at[start]]
        doubt = _REFUSES.search(before.rpartition("but ")[2]) or _REFUSES.search(after)
        if doubt or "?" in self.tokens[closing: closing + 1]:
            return "asks or refuses"
        size = max(4, end - start + 2) if self.words[start].isascii() else max(8, end - start + 4)
        windows = {tuple(self.words[first: first + size]) for first in range(max(0, end - size), start + 1)}
        return "echoes the question" if windows & _grams(question, size) else "ok"

    def _is_listed(self, span: Span, spans: list[Span], fragments: set[int], before: str, after: str) -> bool:
        """True where a mention is one of several candidates: "X or Y", "X, Y and Z", a list item, a string of names."""
        sentence = self.starts[self.at[span[0]]]
        item = sentence and self.tokens[sentence - 1] == "•" and self.tokens.count("•") > 1
        if sentence in fragments or (item and not _COMMITS.search(before + after)):
            return True
        near = [(min(span[1], other[1]), max(span[0], other[0])) for other in spans if abs(other[0] - span[0]) < 12]
        if _NAMED.search(before) or any({"or", "或"} & set(self.words[a:b]) for a, b in near):
            return False  # "thiamine or vitamin B1": two names of the one answer
        if _OR_AFTER.match(after) or _OR_BEFORE.search(before):
            return True
        left, right = _PIECES_BEFORE.findall(before)[0], _PIECES_AFTER.findall(after)[0]  # both match the empty text
        return left[0].count(",") + 1 + right[0].count(",") + bool(right[1]) >= (3 if left[1] or right[1] else 5)

    def _fragments(self) -> set[int]:
        """Return the starts of the sentences that are bare names, where at least three different ones stand."""
        found: dict[str, int] = {}
        for start, end in self.sentences:
            text = _LEAD.sub("", "".join(token + " " for token in self.tokens[start: min(end, start + 16)]))
            if re.fullmatch(_NAME + ("{1,10}" if _CJK.search(text) else "{1,4}"), text):
                found.setdefault(text, start)
        return set(found.values()) if len(found) >= 3 else set()

    def _other_answer(self, spans: list[Span], diagnosis: bool) -> str:
        """Return why a mention is not the answer where a sentence "the answer is ..." names something else, or ""."""
        mentioned = {self.starts[self.at[start]] for start, _ in spans}
        naming: dict[str, set[int]] = {}
        for start, end in self.sentences:
            if match := _ANSWER_IS.search(_text(self.tokens[start: min(end, start + 60)])):
                naming.setdefault(match[1], set()).add(start)
        for noun, starts in naming.items():
            if starts & mentioned and starts - mentioned:
                return "several answers listed"
            if not starts & mentioned and (diagnosis or noun in ("answer", "答案")):
                return "another answer stated"
        return ""
