"""The marks that models put around hidden thinking, in one table with an open end.

    text -> `split` -> the answer behind the thinking, or why there is none

Known pairs are split off. A reply that never left its thinking has no answer, and neither has one that begins with a
mark this table does not know: what stands behind such a mark may be anything, so it is refused by name, never used.
Teacher replies, the readers of students' replies and the counts of `data stats` and `train --dry-run` all ask here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TAGS = (
    "think|thinking|thinks|thought|thoughts|thought_process|thinking_process|reasoning|reasoning_content|reason|"
    "rationale|reflection|analysis|scratchpad|deliberation|inner_monologue|monologue|chain_of_thought|cot|"
    "internal_thoughts|antthinking|seed:think|longcat_think|mm:think"
)
_NAMES = "THINK|THINKING|THOUGHT|THOUGHTS|REASONING|REASON|ANALYSIS|SCRATCHPAD"
_NEVER = r"(?!)"
# (opening, closing) by family. Both are patterns; `\A` where the words are a mark at the beginning of a reply only.
PAIRS: tuple[tuple[str, str], ...] = (
    (rf"<\s*(?:{_TAGS})(?:\s[^<>\n]{{0,80}})?>", rf"<\s*/\s*(?:{_TAGS})\s*>"),  # DeepSeek, Qwen, Gemma's prompts, Seed
    (rf"\[(?-i:{_NAMES})\]", rf"\[/(?-i:{_NAMES})\]"),  # Mistral
    (r"<unused94>(?:thought\b)?", r"<unused95>"),  # MedGemma
    (r"<ctrl94>(?:thought\b)?", r"<ctrl95>"),  # Gemini
    (r"\[unused16\]", r"\[unused17\]"),  # Pangu
    (r"<\|channel>(?!final)\w*", r"<channel\|>|<\|channel>final\b"),  # Gemma 4
    (  # harmony (gpt-oss), with its special tokens
        r"<\|channel\|>(?!\s*final)[^<\n]{0,60}(?:<\|constrain\|>[^<\n]{0,30})?<\|message\|>",
        r"<\|channel\|>\s*final[^<\n]{0,60}(?:<\|constrain\|>[^<\n]{0,30})?<\|message\|>",
    ),
    (r"\Aanalysis(?=[^\W_])|\Aassistantanalysis(?=\S)", r"assistantfinal"),  # harmony where a server dropped them
    (r"◁\s*think(?:ing)?\s*▷", r"◁\s*/\s*think(?:ing)?\s*▷"),  # Kimi
    (r"<\|begin_of_(?:thought|think|thinking|reasoning)\|>", r"<\|end_of_(?:thought|think|thinking|reasoning)\|>"),
    (r"<\|(?:START|start)_(?:THINKING|thinking)\|>", r"<\|(?:END|end)_(?:THINKING|thinking)\|>"),  # Command A
    (r"<\|think(?:ing)?(?:_start)?\|>", r"<\|/think(?:ing)?\|>|<\|think(?:ing)?_end\|>"),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    (r"【\s*(?:思考|思考过程|推理过程)\s*】", r"【\s*(?:/\s*思考|/\s*思考过程|/\s*推理过程|思考结束)\s*】"),
    (r"\Athought[ \t]*\n", _NEVER),  # Gemma's and Gemini's thinking where a server dropped the marks
)
# Words, not marks: they close a thinking only where such words opened it.
SPOKEN: tuple[tuple[str, str], ...] = (
    (r"\AHere(?:'s|’s| is) my thought process:", r"Here(?:'s|’s| is) my response:"),  # Granite
    (r"\AThinking\.\.\.[ \t]*\n", r"\.\.\.\s*done thinking\.?"),  # ollama
)
_MARK = re.compile(
    f"(?P<opens>{'|'.join(opening for opening, _ in PAIRS)})|(?P<closes>{'|'.join(closing for _, closing in PAIRS)})|"
    f"(?P<begins>{'|'.join(opening for opening, _ in SPOKEN)})|(?P<ends>{'|'.join(closing for _, closing in SPOKEN)})",
    re.IGNORECASE,
)
# Marks around an answer: taken off where they frame it. JSON's reader looks past them.
_ANSWER = "答案|最终答案|回答|answer|final_answer|final|response|final_response|output|solution"
_FRAMES = re.compile(
    rf"\A(?:<(?:{_ANSWER})>|\[(?:ANSWER|RESPONSE)\]|"
    r"<\|begin_of_solution\|>|<\|START_(?:RESPONSE|TEXT)\|>|<\|content\|>|<\|channel\|>\s*final\s*<\|message\|>)",
    re.IGNORECASE,
)
_FRAME_ENDS = re.compile(
    rf"(?:</(?:{_ANSWER})>|\[/(?:ANSWER|RESPONSE)\]|"
    r"<\|end_of_solution\|>|<\|END_(?:RESPONSE|TEXT)\|>|<\|return\|>|<\|end\|>|<turn\|>)\s*\Z",
    re.IGNORECASE,
)
_PLAIN = (  # tags that no thinking is written between
    "a|abbr|article|b|big|blockquote|body|br|center|code|dd|del|div|dl|dt|em|font|h[1-6]|head|header|hr|html|i|img|ins|"
    "json|kbd|label|li|main|mark|markdown|math|ol|p|pre|q|s|section|small|span|strong|style|sub|sup|svg|table|tbody|td|"
    f"text|th|thead|title|tr|tt|u|ul|xml|{_ANSWER}"
)
_UNKNOWN = re.compile(
    rf"(?!</?(?:{_PLAIN})(?:[\s/][^<>\n]*)?>|<(?:https?|mailto):)(?:"
    r"<[|｜/]?[^\W\d_][\w:.|｜▁/-]{1,60}(?:\s+[\w:-]+\s*=[^<>\n]{0,80})?>"  # two letters at least: <B> may be an answer
    r"|\[/?(?-i:(?![A-J]+\])[A-Z][A-Z_:-]{4,40})\]|\[/[A-Za-z_]{2,40}\]|◁[^▷\n]{1,40}▷|【\s*/[^】\n]{1,20}】)",
    re.IGNORECASE,
)


class Mark(NamedTuple):
    """A known mark in a text, as it is written there."""

    written: str
    start: int
    end: int
    closes: bool


class Split(NamedTuple):
    """What is left of a text without its thinking. `mark` is the one that was split off, or that is wrong; `problem`
    says what is wrong and `kind` is what it is counted by ("" where nothing is)."""

    answer: str
    mark: str = ""
    problem: str = ""
    kind: str = ""


def find(text: str) -> Iterator[Mark]:
    """Yield the known marks of a text in order; those of a reply's beginning are looked for past white space."""
    begin, spoken = len(text) - len(text.lstrip()), False
    for found in _MARK.finditer(text[begin:]):
        spoken = spoken or found["begins"] is not None
        if found["ends"] is None or spoken:
            closes = found["closes"] is not None or found["ends"] is not None
            yield Mark(" ".join(found[0].split()), begin + found.start(), begin + found.end(), closes)


def unknown(text: str) -> str | None:
    """Return the mark that a text begins with, where it is neither known nor one of a plain page; else None."""
    begin = text.lstrip()
    found = None if _FRAMES.match(begin) else _UNKNOWN.match(begin)
    return " ".join(found[0].split()) if found else None


def split(text: str) -> Split:
    """Return the answer behind the thinking of a text. A closing mark may stand alone: some chat templates write the
    opening one on the model's behalf. Time grows linearly with the text."""
    mark, place, opened = "", 0, ""
    for found in find(text):
        mark = mark if found.closes and mark else found.written  # the opening one, where there is one
        opened = "" if found.closes else found.written
        place = found.end if found.closes else place
    if opened:
        return Split("", opened, f"it ended inside its {opened} part", f"ended inside {opened}")
    answer = text[place:].strip()
    if not answer and mark:
        return Split("", mark, f"it ended with its {mark} part", f"ended with {mark}")
    strange = unknown(answer)
    if strange is not None:
        return Split("", strange, f"it begins with the unknown mark {strange}", f"unknown mark {strange}")
    return Split(answer, mark)


def unframed(answer: str) -> str:
    """Return an answer without the marks that frame the whole of it."""
    framed = _FRAMES.match(answer)
    return _FRAME_ENDS.sub("", answer[framed.end() :] if framed else answer).strip()


def seen(text: str) -> str | None:
    """Return the first mark of a text that a student should not be taught: a known one anywhere, or an unknown one
    that it begins with; None where there is none."""
    return next((found.written for found in find(text)), None) or unknown(text)
