"""From a solved trajectory to an SFT example: its rounds as one natural stream of thought (the complex CoT), and from
that the formal response. Both are checked; a text that fails a check is asked for again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lite_huatuo import response_format
from lite_huatuo.data import replies
from lite_huatuo.data.asking import Ask, Request, ask_again
from lite_huatuo.data.search import Verify, thoughts_text
from lite_huatuo.errors import ReplyError
from lite_huatuo.prompts.render import VERSION, render
from lite_huatuo.records import SFTExample, Trajectory, detect_language

THINKING_TOKENS, RESPONSE_TOKENS = 6000, 4000  # the most a reply may hold; hidden reasoning counts with some models

# Phrases that show an answer was there before the thinking. Plain "the correct answer is …" is how people think.
GIVEN_ANSWER = [
    r"\b(?:given|provided|supplied|reference|expected|official|known|labell?ed|target|gold) answers?\b",
    r"\banswer (?:key|sheet)s?\b",
    r"\bground[- ]truth\b",
    r"\banswers? (?:that )?(?:was|were|is|are|has been|had been) (?:already )?(?:given|provided|supplied|known)\b",
    r"\b(?:given|provided with|handed|told) the (?:right |correct |final )?(?:answer|solution)\b",
    r"\balready (?:know|knew|have|had) the (?:right |correct |final )?answer\b",
    r"\baccording to the (?:\w+ )?(?:answer|solution)\b",
    r"\b(?:told|informed)\b[^.?!\n]{0,40}\b(?:answer|conclusion|incorrect|wrong)\b",
    r"\b(?:answer|conclusion|diagnosis) (?:was|is|has been) (?:judged|marked|graded|flagged|rejected)\b",
    r"\b(?:judged|marked|graded|flagged) (?:as )?(?:wrong|incorrect)\b",
    r"(?:标准|参考|给定|所给|既定|预设)的?(?:正确)?答案",
    r"(?:题目|事先|预先|已经|别人)(?:给出|给|提供|告知)的?(?:正确)?答案",
    r"(?:提供|告知|已知)的(?:正确)?答案|已知答案",
    r"答案(?:是)?(?:已知|已经?给出|已经?提供|提示)",
    r"(?:根据|按照|依据)(?:正确|上述|给出的)?答案",
    r"(?:被告知|有人告诉我|有人说)[^。！？\n]{0,20}(?:答案|结论|错|不对)",
    r"被(?:判|评判|判定|认定)为?(?:错|不对|不正确)",
]
OPTION_LETTER = [r"\b[Oo]ptions? \(?[A-E]\b", r"选项\s*[A-EＡ-Ｅ]"]
REMARK = [  # a word to whoever asked for the text, before the text
    r"\A(?:sure|certainly|of course|okay)?[,.!: ]*here(?: is|'s|’s) (?:the|a|my|your) (?:\w+ ){0,2}"
    r"(?:rewritten|rewrite|rewriting|stream|thought|monologue|answer|response|reply|version)\b",
    r"\A(?:好的|当然)?[，。！,:：]*(?:以下|下面|这)是(?:改写|对|我的|一段|这段|正式|根据)",
]
HEADING = [r"^[ \t]*#{1,6}[ \t]", r"^[ \t]*\*\*[^*\n]+\*\*[:：]?[ \t]*$"]


@dataclass(frozen=True)
class Limits:
    """Length bounds, (least, most), of the two texts; a word counts one, and so does a Chinese character."""

    complex_cot: tuple[int, int] = (40, 3000)
    response: tuple[int, int] = (5, 1000)


async def rewrite(
    trajectory: Trajectory, *, ask: Ask, verify: Verify, limits: Limits | None = None, tries: int = 3
) -> SFTExample:
    """Return the SFT example of a solved trajectory, made from its last attempt.

    The ground truth is shown to neither prompt; the response is verified against it. ReplyError where one of the texts
    still fails a check after `tries`, or cannot be had.
    """
    assert trajectory.solved, "only a solved trajectory can be rewritten"
    limits, problem, rounds = limits or Limits(), trajectory.problem, trajectory.attempts[-1]

    async def read_cot(reply: str) -> str:
        text = replies.read_text(reply)
        check_text(text, problem.language, limits.complex_cot)
        return text

    async def read_response(reply: str) -> str:
        text = replies.read_text(reply)
        check_text(text, problem.language, limits.response)
        if response_format.parse(response_format.render(complex_cot, text)) != (complex_cot, text):
            raise ReplyError("the reply made of the two texts does not have the form")
        if not await verify(problem, text, ""):
            raise ReplyError("the response is not right any more")
        return text

    thoughts = thoughts_text(list(enumerate(rounds, start=1)), problem.language)
    prompt = render("rewrite", problem.language, question=problem.question, thoughts=thoughts)
    complex_cot = await ask_again(ask, Request("rewrite.thinking", prompt, THINKING_TOKENS), read_cot, tries=tries)
    prompt = render("respond", problem.language, question=problem.question, thinking=complex_cot)
    response = await ask_again(ask, Request("rewrite.response", prompt, RESPONSE_TOKENS), read_response, tries=tries)
    provenance = {
        "origin": "label-guided" if trajectory.label_guided else "searched",
        "strategies": [entry.strategy for entry in rounds],
        "attempt": len(trajectory.attempts),
        "teacher": rounds[-1].teacher,
        "prompts": VERSION,
    }
    return SFTExample(trajectory.id, problem.question, complex_cot, response, problem.ground_truth, provenance)


def check_text(text: str, language: str, bounds: tuple[int, int]) -> None:
    """Raise ReplyError where a text is of another length or language, has headings, or shows how it came about."""
    least, most = bounds
    size = length(text)
    if not least <= size <= most:
        raise ReplyError(f"the text has {size} words or Chinese characters; {least} to {most} are wanted")
    if language in ("en", "zh") and detect_language(text) != language:
        raise ReplyError(f"the text is not in the language of the question ({language})")
    for patterns, what in (
        (GIVEN_ANSWER, "speaks of an answer that was given"),
        (OPTION_LETTER, "speaks of options"),
        (REMARK, "begins with a remark about itself"),
        (HEADING, "has headings"),
    ):
        for pattern in patterns:
            found = re.search(
                pattern, text, re.MULTILINE if patterns is OPTION_LETTER else re.MULTILINE | re.IGNORECASE
            )
            if found:
                raise ReplyError(f"the text {what}: {found[0].strip()!r}")


def length(text: str) -> int:
    """Return how many words and Chinese characters a text has."""
    return len(re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", text))
