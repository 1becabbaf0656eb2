"""How a text names options: by letters ("B", "(b)", "A, C", "ACD", "Ｂ、Ｄ") or by the exact text of one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

# What may follow a letter that is an answer. "A patient", "C reactive", "I think", "B-cell" are no answers.
_FOLLOWS = re.compile(
    r"""\s*(?:$|\.(?!\s*(?-i:[a-z]))|[\n,:;!?)\]}】"'”’>=<。、/&+]|[-–—](?:\s|$)|\(|[\u3400-\u9fff])
    |\s+(?:because|since|as|and|or|but|which|with|for|due|given|though|although|however|is|are|was|would|must|best|in|
    here|not|rather|it|together|alone|correct|incorrect|the\s+(?:correct|right|best|only))\b""",
    re.VERBOSE | re.IGNORECASE,
)
_JOIN = re.compile(
    r"""(?:\.?[)\]}"'”’】]*\s*(?:,\s*and\b|;|,|、|\band\b|&|\+|和|及|与|以及)
        |[)\]】]\s*(?=[(\[【]\s*[A-Z]\s*[)\]】])  # "(A)(B)"
        |\s*[ ](?=(?-i:[A-Z](?:[ ][A-Z])*)[ ]?(?:$|[。\n]|\.(?:$|\n))))  # "A B D", with nothing after it
    \s*(?:option\s+|选项)?[(\[【"']*\s*""",
    re.IGNORECASE | re.VERBOSE,
)
# One letter a line, "B\\n(C)": a line that is nothing else, or its option's letter and text.
_JOIN_LINES = re.compile(r"[.)\]】\"'”’]*[ ]?[,;、]?[ ]?\n+(?:\d+[.)、]\s*)?[(\[【\"']*")
_LINE_ENDS = re.compile(r"[.)\]】\"'”’。,;、 ]*(?:\n|$)")
_JOIN_TEXTS = re.compile(r"\s*(?:\band\b|&|\+|和|及|与|、)\s*", re.IGNORECASE)
_OWN_LETTER = re.compile(r"\s*[(\[]\s*(?:option\s+|选项)?([A-Z])\s*[)\]]", re.IGNORECASE)
_OPEN = re.compile(
    r"[)\"'\]]*\s*,?\s*(?:/|\bor\b|\band\s+(?:also|maybe|possibly|perhaps)\b|\bversus\b|\bvs\b|或|还是)(?!\s*(?:other|more|less|so)\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[\s\"'“”‘’(\[{<:=>【】]*")
# "A" is an article in small letters only
_LEAD = re.compile(
    rf"{_BARE.pattern}(?:(?:the|(?-i:an?)|to|option|choice|letter|选项)\b{_BARE.pattern})*", re.IGNORECASE
)
_CAPITAL = re.compile(r"[A-Z]")
_CLOSING = re.compile(r"[ \t]*\)")
_RUN = re.compile(r"[A-Za-z]+")
_SMALL_ENDS = re.compile(r"\s*(?:$|\.(?!\s*(?-i:[a-z]))|[\n)\]:;。])")
_LAST_LETTERS = re.compile(
    r"(?:^|[\s(\"'\[,。;:、=\u3400-\u9fff])"
    r"((?:[(\[\"'【]*[A-Z][)\]\"'】]*(?:\s*(?:,\s*and\b|,|、|\band\b|&|\+|和|及|与)\s*(?:option\s+|选项)?)?)+|(?<=\()[a-z](?=\)))"
    r"[)\"'\].]*\s*(?:选项|项)?$"
)
# A letter after one of these is part of a name.
_NAMES = re.compile(
    r"(?:vitamin|hepatitis|type|protein|factor|class|group|stage|grade|influenza|immunoglobulin|phase|zone|"
    r"维生素|血型|因子|蛋白)\s*$",
    re.IGNORECASE,
)
_NEAR = 300  # characters before a place that are looked at
_TEXT_GAP = re.compile(r"[\s.:)\]、,\"'=–—-]*\(?[\s\"']*")
_LATEX = (
    (re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}"), r" answer: \1 \n"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\[\[\]()]|\$"), " "),
    (re.compile(r"<(?:final_)?answer>(.*?)</(?:final_)?answer>", re.IGNORECASE | re.DOTALL), r" answer: \1 \n"),
    (re.compile(r"</?[a-z][^<>\n]{0,60}>|~~[^~\n]*~~|\|", re.IGNORECASE), " "),
    (re.compile(r"\*\*|__|`+(?:json)?|^\s*(?:#+|>|[-*•](?=\s))", re.MULTILINE), ""),
    (re.compile(r"(?<![^\s(])[*_](?=\S)|(?<=\S)[*_](?![^\s).,:;])"), ""),
    (re.compile("[✅✔☑]\ufe0f?"), " correct "),
    (re.compile("[❌✗✘❎]\ufe0f?"), " incorrect "),
    (re.compile("[\u2600-\u27bf\U0001f000-\U0001faff]\ufe0f?"), " "),
)


@dataclass(frozen=True)
class Named:
    """Options named at a place: sorted letters, where it ends, and how. `clash`: letter and text disagree; `open`: it
    goes on with "or"; `listed`: the next option's letter follows, as in a list; `lettered`: by letter, not by text."""

    letters: str
    end: int
    lettered: bool
    clash: bool = False
    open: bool = False
    listed: bool = False


def clean(text: str) -> str:
    """Return a text in one width, without markdown and LaTeX; what is boxed or tagged as the answer is said so."""
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()


class Options:
    """The options of a question, ready to be looked for in texts that went through `clean`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.letters = "".join(sorted(options))
        texts = {letter: clean(text).rstrip(".。 ") for letter, text in options.items()}
        folded = [text.casefold() for text in texts.values()]
        usable = {k: text for k, text in texts.items() if text and folded.count(text.casefold()) == 1}
        self._order = sorted(usable, key=lambda letter: (-len(usable[letter]), letter))
        self._pattern = re.compile(
            "|".join(f"({_text_pattern(usable[letter])})" for letter in self._order) or r"(?!)", re.IGNORECASE
        )

    def named(self, text: str, position: int, *, lead: bool = True) -> Named | None:
        """Return what is named from a place on, None where that is no option. `lead` skips quotes and "option"."""
        if lead:
            bare, lead_words = _BARE.match(text, position), _LEAD.match(text, position)
            assert bare is not None, "the pattern may be empty"
            assert lead_words is not None, "the pattern may be empty"
            return self._at(text, bare.end()) or self._at(text, lead_words.end())
        return self._at(text, position)

    def mentions(self, text: str) -> list[tuple[int, int, str]]:
        """Return (start, end, letter) of every option text in a text, the longest at each place."""
        return [
            (m.start(), m.end(), self._order[m.lastindex - 1])
            for m in self._pattern.finditer(text)
            if m.lastindex is not None and not _inside_word(text, m.start())
        ]

    def ends_with(self, text: str, end: int) -> Named | None:
        """Return what is named right before a place: letters or one option's text."""
        text = text[max(0, end - _NEAR) : end]
        offset = max(0, end - _NEAR)
        before = text.rstrip(" \"')]")
        for start, stop, letter in reversed(self.mentions(before)):
            if stop == len(before):
                return Named(letter, offset + start, False)
        match = _LAST_LETTERS.search(text)
        if match is None or _NAMES.search(text[: match.start(1)]):
            return None
        found = self.named(text, match.start(1))
        if found is None or not found.lettered or found.open or _CAPITAL.search(text, found.end, match.end(1)):
            return None
        return Named(found.letters, offset + match.start(1), True, found.clash)

    def _at(self, text: str, position: int) -> Named | None:
        """Return what is named at exactly this place."""
        by_text = self._text_at(text, position)
        if by_text is not None:
            return by_text
        found, end, clash, lines = "", position, False, False
        while True:
            run = _RUN.match(text, end)
            if run is None or not self._are_letters(run[0], text, run):
                if not found:
                    return None
                break  # a joining word that led nowhere: what was found before it stands
            found, after = found + run[0].upper(), run.end()
            gap = _TEXT_GAP.match(text, after)
            own = self._pattern.match(text, gap.end()) if gap is not None and gap.end() > after else None
            if own is not None and own.lastindex is not None and len(run[0]) == 1:
                clash = clash or self._order[own.lastindex - 1] != run[0].upper()
                closing = _CLOSING.match(text, own.end())
                after = closing.end() if closing is not None else own.end()
            joined = _JOIN.match(text, after)
            stop = after
            if joined is None:
                joined = self._next_line(text, after)
                lines = lines or joined is not None
            if joined is None:
                break
            end = joined.end()
        end = stop
        if len(set(found)) != len(found):
            return None
        listed = len(found) == 1 and self._next_follows(text, end, found)
        listed = listed or (lines and (found == self.letters or found != "".join(sorted(found))))
        return Named("".join(sorted(found)), end, True, clash, self._left_open(text, end), listed)

    def _next_line(self, text: str, end: int) -> re.Match[str] | None:
        """Return the line break after which the next line is one letter, alone or with its option's text."""
        joined = _JOIN_LINES.match(text, end)
        run = _RUN.match(text, joined.end()) if joined is not None else None
        if run is None or len(run[0]) > 1 or run[0] not in self.letters:
            return None
        after = run.end()
        gap = _TEXT_GAP.match(text, after)
        own = self._pattern.match(text, gap.end()) if gap is not None and gap.end() > after else None
        return joined if _LINE_ENDS.match(text, own.end() if own is not None else after) else None

    def _text_at(self, text: str, position: int) -> Named | None:
        """Return the options whose texts stand at exactly this place, each perhaps with its letter in brackets."""
        found, end, clash = "", position, False
        start: int | None = position
        while start is not None:
            match = self._pattern.match(text, start)
            if match is None or match.lastindex is None or _inside_word(text, start):
                break
            found, end = found + self._order[match.lastindex - 1], match.end()
            own = _OWN_LETTER.match(text, end)
            if own is not None and own[1].upper() in self.letters:
                clash, end = clash or own[1].upper() != found[-1], own.end()
            joined = _JOIN_TEXTS.match(text, end)
            start = joined.end() if joined is not None else None
        if not found or len(set(found)) != len(found):
            return None
        several = len(found) > 1  # "yes and no": two texts are no clear statement of both
        return Named("".join(sorted(found)), end, False, clash, several or self._left_open(text, end))

    def _are_letters(self, run: str, text: str, match: re.Match[str]) -> bool:
        """True where a run of letters names options: one, or several in order and in capitals."""
        if not set(run.upper()) <= set(self.letters):
            return False
        gap = _TEXT_GAP.match(text, match.end())
        has_text = gap is not None and gap.end() > match.end() and self._pattern.match(text, gap.end()) is not None
        if not _FOLLOWS.match(text, match.end()) and not (has_text and run.isupper()):
            return False
        if len(run) == 1:
            # a small letter is one only where nothing can be read on: "answer: b", "(b)"
            return run.isupper() or _SMALL_ENDS.match(text, match.end()) is not None
        return run.isupper() and run == "".join(sorted(set(run)))

    def _left_open(self, text: str, end: int) -> bool:
        return _OPEN.match(text, end) is not None

    def _next_follows(self, text: str, end: int, letter: str) -> bool:
        """True where the next option's letter follows on the same line, as in "A. yes B. no"."""
        following = self.letters[self.letters.index(letter) + 1 :][:1]
        rest = text[end : end + 200].split("\n")[0]
        return bool(following) and re.search(rf"(?:^|\s){following}[.):]\s", rest) is not None


@lru_cache(maxsize=1024)
def prepared(options: tuple[tuple[str, str], ...]) -> Options:
    """Return the prepared options of a question; the last ones are kept, for several rules read each reply."""
    return Options(dict(options))


def _text_pattern(text: str) -> str:
    """Return the pattern of an option's text: any white space for its own, no word going on after its end."""
    words = r"\s+".join(re.escape(word) for word in text.split())
    return words + (r"(?![A-Za-z0-9])" if re.match(r"\w", text[-1]) and text[-1] < "\u3400" else "")


def _inside_word(text: str, start: int) -> bool:
    """True where a Latin word has begun before this place."""
    return start > 0 and bool(re.match(r"[A-Za-z0-9]{2}", text[start - 1 : start + 1]))
