"""A teacher without a model: what it replies depends only on the request, and it is wrong often enough that every
strategy, dropped question, failed check and label-guided round occurs. It knows a prompt by the template it is made of.

Answers it makes up look like "candidate ab12"; whether such an answer is right is decided by question and answer, so
that all of its verdicts agree. A request's `seed` and `model`, where there are any, make other samples differ.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from lite_huatuo.data.asking import Request
from lite_huatuo.prompts.render import LANGUAGES

Values = dict[str, str]
PARTS = ("step", "round", "round_back")
ENDING = {"en": "So I settle on it.", "zh": "所以就是它了。"}


class Prompt(NamedTuple):
    """What a request asks: template, language and the values that were put in."""

    name: str
    language: str
    values: Values


class Dice:
    """Draws that depend on the request only."""

    def __init__(self, *content: object) -> None:
        self.content = "\0".join(map(str, content))

    def number(self, what: str) -> int:
        """Return a number from 0 to 99."""
        return int(hashlib.sha256(f"{self.content}\0{what}".encode()).hexdigest()[:8], 16) % 100

    def name(self, what: str) -> str:
        """Return four hexadecimal digits."""
        return hashlib.sha256(f"{self.content}\0{what}".encode()).hexdigest()[:4]


def reply(request: dict[str, Any]) -> str:
    """Return the reply to a chat-completions or responses request whose last message is one of our prompts."""
    content = request["input"] if "input" in request else request["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    prompt = recognise(text)
    dice = Dice(text, request.get("seed"), request.get("model"))
    answer = REPLIES[prompt.name](prompt, dice)
    return answer if isinstance(answer, str) else wrap(answer, dice)


class InProcess:
    """An `Ask` without a server. `fixed` gives some templates other replies: a text, an object, or a function of the
    request. `requests` holds what was asked, in order; `name` is the model's.
    """

    def __init__(self, name: str = "teacher", **fixed: Any) -> None:
        self.name, self.fixed = name, fixed
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> str:
        """Return the reply; lets other tasks run first, as a network would."""
        self.requests.append(request)
        await asyncio.sleep(0)
        own = self.fixed.get(recognise(request.prompt).name)
        own = own(request) if callable(own) else own
        if own is not None:
            return own if isinstance(own, str) else json.dumps(own)
        message = {"role": "user", "content": request.prompt}
        return reply({"model": self.name, "messages": [message], "seed": request.sample})

    def prompts(self, name: str) -> list[Values]:
        """Return the values of every prompt made of a template, in order."""
        found = (recognise(request.prompt) for request in self.requests)
        return [prompt.values for prompt in found if prompt.name == name]


def recognise(text: str) -> Prompt:
    """Return which template, in which language, with which values a prompt was made of."""
    for opening, name, language, pattern in patterns():
        if text.startswith(opening):
            found = pattern.match(text)
            if found:
                return Prompt(name, language, found.groupdict())
    raise ValueError(f"not one of our prompts: {text[:80]!r}")


@cache
def patterns() -> list[tuple[str, str, str, re.Pattern[str]]]:
    """Return (opening text, name, language, pattern) of every template that is sent."""
    found = []
    for language, templates in LANGUAGES.items():
        for name, template in templates.items():
            if name not in PARTS:
                pieces = re.split(r"\$\{(\w+)\}", template)
                source = "".join(f"(?P<{p}>.*?)" if i % 2 else re.escape(p) for i, p in enumerate(pieces))
                found.append((pieces[0], name, language, re.compile(source, re.DOTALL)))
    return found


def wrap(answer: dict[str, Any], dice: Dice) -> str:
    """Return the object as JSON, in one of the ways in which models write it."""
    written = json.dumps(answer, ensure_ascii=False, indent=1 if dice.number("indent") < 30 else None)
    way = dice.number("way")
    if way < 15:
        return f"```json\n{written}\n```"
    if way < 25:
        return f"Here it is:\n\n{written}\n\nI hope this helps {{as asked}}."
    if way < 35:
        return written[:-1].rstrip() + ",}"
    if way < 40:
        return f'<think>They want {{"…": …}}.</think>\n{written}'
    return written


def solve(prompt: Prompt, dice: Dice) -> dict[str, Any] | str:
    """Choose an option: every model the same on easy questions, now and then none at all."""
    letters = re.findall(r"^([A-Z])\. ", prompt.values["exam"], re.MULTILINE)
    easy = Dice(prompt.values["exam"])
    if not letters or dice.number("lost") < 4:
        return "I would rather not say."
    chosen = easy if easy.number("easy") < 40 else dice
    return {"answer": letters[chosen.number("letter") % len(letters)]}


def judge_question(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Keep seven of ten."""
    fate = dice.number("fate")
    return {"reason": "One fact is enough.", "deep": fate >= 10, "unique": not 10 <= fate < 20, "reformable": fate < 90}


def reformat(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Strike out what leans on the options; one of twenty still does."""
    found = re.search(r"<question>\n(.*?)\n</question>", prompt.values["exam"], re.DOTALL)
    question = found[1] if found else prompt.values["exam"]
    question = re.sub(r"(?i)\b(which|any|all|one|none|each) of (the following|these|the above)\b", "what", question)
    question = re.sub(r"下列|以下|上述|选项", "", question)
    if dice.number("leaning") < 5:
        question += " Which of the following is right?"
    if len(question) < 10:
        question = f"{question} (one short answer)"
    truth = re.sub(r"^[A-Z]\. ", "", prompt.values["answer"]).strip()
    return {"question": question, "ground_truth": " ".join(truth.split()[:25])[:180]}


def check_reformat(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Accept nine of ten."""
    fate = dice.number("fate")
    return {"reason": "Checked.", "complete": fate >= 4, "unique": not 4 <= fate < 7, "same": not 7 <= fate < 10}


def think(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Write a few steps that end in a made-up answer; no conclusion at all in one of thirty."""
    return chain(prompt, dice, f"candidate {dice.name('answer')}" if dice.number("empty") >= 3 else "")


def label_guided(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Arrive at the ground truth, or in one of five still at something else."""
    truth = prompt.values["ground_truth"] if dice.number("lost") >= 20 else f"candidate {dice.name('answer')}"
    return chain(prompt, dice, truth)


def chain(prompt: Prompt, dice: Dice, answer: str) -> dict[str, Any]:
    """Return steps and a conclusion in the form that was asked for."""
    chinese = prompt.language == "zh"
    about = " ".join(prompt.values["question"].split())[:60]
    steps = []
    for number in range(2 + dice.number("steps") % 3):
        mark = dice.name(f"step {number}")
        content = (
            f"题目说“{about}”，这里要注意线索{mark}，它提示了病变的部位和机制，需要与相近的情况鉴别。"
            if chinese
            else f"The case says '{about}', and clue {mark} in it points to a place and a mechanism; what else fits?"
        )
        title = f"线索{mark}" if chinese else f"Clue {mark}"
        steps.append({"action": "verify" if number else "think", "title": title, "content": content})
    conclusion = (f"答案是{answer}。" if chinese else f"The answer is {answer}.") if answer else ""
    return {"steps": steps, "conclusion": conclusion}


def verify(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Judge by the last made-up answer, else by whether the ground truth is named."""
    return {"correct": is_right(prompt.values["question"], prompt.values["ground_truth"], prompt.values["answer"])}


def is_right(question: str, ground_truth: str, answer: str) -> bool:
    """Return the verdict on an answer: one in five made-up ones is right."""
    made_up = re.findall(r"candidate ([0-9a-f]{4})", answer)
    if made_up:
        return Dice(question, made_up[-1]).number("right") < 20
    return ground_truth.casefold() in answer.casefold()


def judge_answer(prompt: Prompt, dice: Dice) -> dict[str, Any]:
    """Judge by whether the ground truth is named."""
    return {"correct": prompt.values["ground_truth"].casefold() in prompt.values["final_response"].casefold()}


def judge_answer_word(prompt: Prompt, dice: Dice) -> str:
    """The same, in the word asked for."""
    return prompt.values["right" if judge_answer(prompt, dice)["correct"] else "wrong"]


def rewrite(prompt: Prompt, dice: Dice) -> str:
    """Tell the notes as a stream; one of twenty speaks of a given answer, one of twenty has headings."""
    chinese = prompt.language == "zh"
    lines = [re.sub(r"^\[\w+\] [^:：]*[:：] ?", "", line) for line in prompt.values["thoughts"].split("\n")]
    told = [line for line in lines if line and not re.match(r"(Round \d|第\d+轮)", line)]
    stream = ("不对，再想想。" if chinese else " Hmm, wait. ").join(told)
    stream = stream.replace("Conclusion: ", "So now: ").replace("结论：", "这样看来，")
    fate = dice.number("fate")
    if fate < 5:
        stream += "这与标准答案一致。" if chinese else " This agrees with the reference answer."
    elif fate < 10:
        stream = f"## Thinking\n\n{stream}"
    return f"{stream} {ENDING[prompt.language]}"


def respond(prompt: Prompt, dice: Dice) -> str:
    """State the last answer of the thinking; one of ten states another."""
    chinese = prompt.language == "zh"
    found = re.findall(r"答案是(.*?)。|The answer is (.*?)\.(?= |$)", prompt.values["thinking"])
    answer = "".join(found[-1]) if found else "unknown"
    if dice.number("slip") < 10:
        answer = f"candidate {dice.name('slip')}"
    if chinese:
        return f"答案是{answer}。题目中的各项线索都支持这一判断，其他可能性与临床表现不符。"
    return f"The answer is {answer}. The findings of the case support it; the nearest other possibility fits less well."


REPLIES: dict[str, Callable[[Prompt, Dice], dict[str, Any] | str]] = {
    "solve": solve,
    "judge_question": judge_question,
    "reformat": reformat,
    "check_reformat": check_reformat,
    "first": think,
    "backtracking": think,
    "exploring": think,
    "verification": think,
    "correction": think,
    "label_guided": label_guided,
    "verify": verify,
    "judge_answer": judge_answer,
    "judge_answer_word": judge_answer_word,
    "rewrite": rewrite,
    "respond": respond,
}
