"""From an exam question to a verifiable problem: do small models solve it, is it worth keeping, and what does it ask
once its options are gone.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from lite_huatuo.data.asking import Ask, Request, ask_json
from lite_huatuo.errors import ReplyError
from lite_huatuo.prompts.render import render
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.records import ExamQuestion, VerifiableProblem

# The most a reply may hold, in tokens; wide, since the hidden reasoning of some models counts.
SOLVE_TOKENS, JUDGE_TOKENS, REFORMAT_TOKENS = 2000, 2000, 3000
TRUTH_WORDS, TRUTH_CHARACTERS = 30, 200  # a longer ground truth is no short answer
# What the judge looks at, in the order in which a reason to drop is given.
JUDGED = {"deep": "too simple", "unique": "no unique answer", "reformable": "needs its options"}
CHECKED = {
    "complete": "incomplete open question",
    "unique": "open question has other answers",
    "same": "changed meaning",
}
# Words of an open question that still leans on its options.
LEANS = re.compile(
    r"(?i:\b(?:which|any|all|one|none|each) of (?:the following|these|the above)\b)"
    r"|(?i:\bthe (?:following|above) (?:options|choices)\b|\banswer choices?\b)"
    r"|\b[Oo]ptions? [A-E]\b|下列(?:选项|哪|何|各项)|以下(?:选项|哪|何|各项)|上述选项|选项[A-EＡ-Ｅ]"
)


async def solve(question: ExamQuestion, ask: Ask, sample: str = "") -> bool:
    """Return whether the model behind `ask` chooses exactly the right option or options.

    A reply that names no option raises ReplyError after a few tries: no answer is not a wrong answer.
    """

    def read(reply: dict[str, Any]) -> str:
        letters = read_letters(reply["answer"], question.options)
        if not letters:
            raise ReplyError(f"no option: {reply['answer'][:60]!r} names none of {', '.join(question.options)}")
        return letters

    prompt = render("solve", question.language, exam=exam_text(question))
    request = Request("filter.solve", prompt, SOLVE_TOKENS, SCHEMAS["solve"], temperature=0.0, sample=sample)
    return await ask_json(ask, request, read) == "".join(sorted(question.answer_idx))


async def judge(question: ExamQuestion, ask: Ask) -> str | None:
    """Return None where the teacher would keep the question, else the reason to drop it ("too simple: …")."""
    prompt = render("judge_question", question.language, exam=exam_text(question), answer=answer_text(question))
    request = Request("filter.judge", prompt, JUDGE_TOKENS, SCHEMAS["judge_question"], temperature=0.0)
    return await ask_json(ask, request, lambda reply: objection(reply, JUDGED))


async def reformat(question: ExamQuestion, ask: Ask) -> VerifiableProblem | str:
    """Return the open question with its ground truth, or the reason why the check by the teacher dropped it.

    The problem keeps the question's id, language and source. ReplyError where no usable open question was written.
    """
    shown = {"exam": exam_text(question), "answer": answer_text(question)}
    request = Request(
        "reformat.write", render("reformat", question.language, **shown), REFORMAT_TOKENS, SCHEMAS["reformat"]
    )
    written = await ask_json(ask, request, lambda reply: _open_question(reply, question))
    prompt = render("check_reformat", question.language, **shown, **written)
    request = Request("reformat.check", prompt, JUDGE_TOKENS, SCHEMAS["check_reformat"], temperature=0.0)
    reason = await ask_json(ask, request, lambda reply: objection(reply, CHECKED))
    if reason:
        return reason
    return VerifiableProblem(question.id, language=question.language, source=question.source, **written)


def exam_text(question: ExamQuestion) -> str:
    """Return the question as the prompts show it: context where there is one, stem, options."""
    context = f"<context>\n{question.context}\n</context>\n" if question.context else ""
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    return f"{context}<question>\n{question.question}\n</question>\n<options>\n{options}\n</options>"


def answer_text(question: ExamQuestion) -> str:
    """Return the right option or options as the prompts show them, "B. text"."""
    return "; ".join(f"{letter}. {question.options[letter]}" for letter in question.answer_idx)


def read_letters(answer: str, options: dict[str, str]) -> str:
    """Return the letters an answer names, sorted, "" where it names none for certain.

    Read are letters alone ("B", "(b)", "A, C", "AC", not "bad"), a letter with its option's text ("B. Aspirin"), and
    the exact text of one option. A letter in a sentence is not: "A" is a word.
    """
    text = _folded(answer)
    by_text = [letter for letter, option in options.items() if _folded(option) == text]
    if len(by_text) == 1:
        return by_text[0]
    bare = re.sub(r"[\s().,:;、/&+]|\band\b|和", "", unicodedata.normalize("NFKC", answer))
    bare = bare.upper() if len(bare) == 1 else bare
    if bare and set(bare) <= set(options) and len(set(bare)) == len(bare):
        return "".join(sorted(bare))
    named = [letter for letter, option in options.items() if _labelled(text, letter.lower(), _folded(option))]
    return named[0] if len(named) == 1 else ""


def objection(reply: dict[str, Any], reasons: dict[str, str]) -> str | None:
    """Return the first reason whose property the reply denies, with the reply's own words, or None."""
    denied = next((text for name, text in reasons.items() if not reply[name]), None)
    why = " ".join(reply["reason"].split())
    return denied and (f"{denied}: {why}" if why else denied)


def _open_question(reply: dict[str, Any], original: ExamQuestion) -> dict[str, str]:
    """Return {question, ground_truth} where they can be used; ReplyError tells why not."""
    question, truth = reply["question"].strip(), reply["ground_truth"].strip()
    if len(question) < 10 or not any(character.isalnum() for character in truth):
        raise ReplyError("the open question or its ground truth is empty")
    leaning = LEANS.search(question)
    if leaning:
        raise ReplyError(f"the open question still leans on its options: {leaning[0]!r}")
    if len(truth.split()) > TRUTH_WORDS or len(truth) > TRUTH_CHARACTERS or "\n" in truth:
        raise ReplyError(f"the ground truth is no short answer: {truth[:60]!r}…")
    told = _folded(f"{original.question} {original.context or ''}")
    if len(truth) > 3 and _folded(truth) in _folded(question) and _folded(truth) not in told:
        raise ReplyError("the open question gives its ground truth away")
    return {"question": question, "ground_truth": truth}


def _labelled(text: str, letter: str, option: str) -> bool:
    """True for "b. aspirin", "(b) aspirin", "b: aspirin"."""
    return re.fullmatch(rf"\(?{letter}\s*[.:)、]\s*{re.escape(option)}", text) is not None


def _folded(text: str) -> str:
    """Return text for comparison: one width and case, single spaces, no full stop at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。")
