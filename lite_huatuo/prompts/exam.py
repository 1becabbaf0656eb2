"""How a benchmark asks an exam question. Each text has a name with a number: a change of it needs a new one, because
scores under two texts are not to be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

PROMPTS = {
    "one-1": {
        "en": 'Answer the multiple-choice question. One option is right. End with "The answer is X.", where X is its '
        "letter.\n\n${question}\n\n${options}",
        "zh": "请回答下面的单项选择题。请在回答的最后写“答案是X。”，其中X是正确选项的字母。\n\n"
        "${question}\n\n${options}",
    },
    "several-1": {
        "en": 'Answer the multiple-choice question. One or more options are right. End with "The answer is X.", where '
        "X is the letter, or all the letters, of what is right.\n\n${question}\n\n${options}",
        "zh": "请回答下面的选择题，正确选项可能有一个或多个。"
        "请在回答的最后写“答案是X。”，其中X是所有正确选项的字母。\n\n"
        "${question}\n\n${options}",
    },
    "context-1": {
        "en": 'Answer the question from the text below. Choose one option and end with "The answer is X.", where X is '
        "its letter.\n\n${context}\n\n${question}\n\n${options}",
        "zh": "请根据下面的材料回答问题，选择一个选项，并在回答的最后写“答案是X。”，其中X是该选项的字母。\n\n"
        "${context}\n\n${question}\n\n${options}",
    },
}


def ask(name: str, language: str, question: str, options: Mapping[str, str], context: str | None = None) -> str:
    """Return what a student is asked: the text `name` in the question's language, English for other languages."""
    texts = PROMPTS[name]
    listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    return Template(texts.get(language, texts["en"])).safe_substitute(
        question=question, options=listed, context=context or ""
    )
