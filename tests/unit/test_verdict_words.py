"""Verdict words: ten thousand replies that a judge might write, none of which may crash the reading or become a True
that was not meant.
"""

from __future__ import annotations

import json
import random

import pytest

from lite_huatuo import thinking_marks
from lite_huatuo.errors import ReplyError
from lite_huatuo.verifier import verdict_words
from lite_huatuo.verifier.api import read_reply

RIGHT = [
    "True",
    "true",
    "TRUE.",
    " **True** ",
    '"True"',
    "`True`.",
    "True\n\nThe response names the same drug.",
    "正确",
]
RIGHT += [
    "正确。",
    "【正确】",
    "True. Both mean a heart attack.",
    "正确。两者含义相同。",
    "<think>False? No.</think>True",
]
WRONG = [
    "False",
    "false.",
    "**False**",
    "错误",
    "错误。",
    "False. The correct answer is warfarin.",
    "错误。正确答案是肝炎。",
]
NEITHER = [
    "", " ", "not true", "Not True.", "untrue", "Untrue.", "True or False?", "True/False", "True, False", "True?",
    "正确吗？", "不正确", "正确与否", "正确错误", "True but only partly", "True. But it is not.",
    "True. Wait, no: False.", "True\nFalse", "False\nTrue", "False. True.", "正确。错误", "错误\n正确", "Truely",
    "Trueish.", "True-ish", "TrueFalse", "Ture", "true story", "It is True", "Verdict: True", "Answer: true",
    "The answer is true.", "yes", "Correct", "correct.", "right", "Right.", "1", "ok", "是", "对", "Verdadero",
    "wahr", "vrai", "vero", "правда", "本当", "참", "صحيح", "正確", "✓", "True negative",
    "True, if you ask the student", "True = the response is right; False = it is wrong", "T", "Tr ue", "T r u e",
    "Not false", "It is false that this is true", "Ｔｒｕｅ", "Тrue", "True。？", "True\u200b", "true_positive",
    "!True", "~True", "¬True", "¬ true", "<b>True</b>", "{True}", "True: no", "True; no", "True — no", "-True",
    "/True", "\\True", "True. The opposite is so.", "True. I am joking.", "True. It isn't.",
    "True.\n\nCorrection: it is wrong.", "正确。但是回答的是另一种药。", "正确。不对。", "<think>True",
    "<think>so it is True</think>", "True</think>", '{"correct": true}', '{"correct": true, "correct": false}',
    "[true]", "null", "None", "True" * 50, "🟢", "\x00True", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_a_plain_true_is_read(text: str) -> None:
    assert read_reply(text, "word") is True


@pytest.mark.parametrize("text", WRONG)
def test_a_plain_false_is_read(text: str) -> None:
    assert read_reply(text, "word") is False


@pytest.mark.parametrize("text", NEITHER)
def test_nothing_else_is_a_verdict(text: str) -> None:
    with pytest.raises(ReplyError):
        read_reply(text, "word")


JSON_NEITHER = [
    "true", "True", "", "{}", "[]", "null", '{"correct": null}', '{"correct": 1}', '{"correct": "yes"}',
    '{"correct": "正确"}', '{"correct": true, "correct": false}', '{"correct": true} {"correct": false}',
    '{"correct": [true]}', '{"Correct": true}', 'The form is {"correct": true} or {"correct": false}',
    '{"verdict": {"correct": true}', '{"correct": "not true"}', '{"correct": tru', '<think>{"correct": true}',
    '{"correct": "true or false"}', '{"correct": not true}', '{"a": "correct: true"}', '{"incorrect": true}',
    '{"correct": true', '{"correct": !true}', "correct: true", "<correct>true</correct>",
]  # fmt: skip


@pytest.mark.parametrize("text", JSON_NEITHER)
def test_no_verdict_is_guessed_from_json(text: str) -> None:
    with pytest.raises(ReplyError):
        read_reply(text, "schema")


def test_a_verdict_in_json_is_read() -> None:
    assert read_reply('```json\n{"reason": "same drug", "correct": true}\n```', "schema") is True
    assert read_reply('<think>{"correct": true}</think>{"correct": false}', "schema") is False


PIECES = [
    "True", "False", "true", "false", "正确", "错误", "not ", "un", "不", " or ", "/", "?", "？", ".", "。", "\n",
    " ", ": ", "**", "`", '"', "{", "}", '{"correct": ', "true}", "false}", "<think>", "</think>", "\u200b",
    "\u2028", "é", "是", "吗", "Verdict", "answer", "[", "]", "(", ")", "-", "!", "n't", "，", ",", "😀", "\x00",
    "<answer>", "</answer>", "\\", "\t", "#", ">", "0", "1", "null",
]  # fmt: skip
BEFORE, AFTER = ' \n\t\u2028*`"[(', ' \n\t*`"]).。!'  # what may stand beside the word
DOUBTFUL = ("False", "false", "错误", "不", "?", "？", "n't")


def test_ten_thousand_replies_never_crash_and_never_become_a_false_true() -> None:
    rng = random.Random(0)
    read = {True: 0, False: 0, None: 0}
    for _ in range(10_000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 6)))
        answer = thinking_marks.unframed(thinking_marks.split(text).answer).strip().lstrip(BEFORE)
        said = verdict(text, "word")
        read[said] += 1
        if said is True:
            assert answer.startswith(("True", "true", "正确")), text
            assert answer[2 if answer.startswith("正确") else 4 :][:1] in ("", *AFTER), text
            assert not any(piece in answer for piece in DOUBTFUL), text
        if said is False:
            assert answer.startswith(("False", "false", "错误")), text
            assert not any(piece in answer for piece in ("True", "true", "?", "？")), text
        said = verdict(text, "schema")
        read[said] += 1
        if said is not None:
            bare = "".join(answer.split())
            assert ('"correct":true}' in bare, '"correct":false}' in bare) == (said, not said), text
    assert min(read.values()) > 100, "the replies are so strange that nothing is tested"


def test_replies_with_a_denial_in_them_are_never_true() -> None:
    rng = random.Random(1)
    words = ["True", "true", "正确", "is", "it", "that", "the answer", "correct", "回答", ".", ",", "。", "**", "\n"]
    denials = ["not", "false", "False", "wrong", "isn't", "no", "incorrect", "untrue", "错误", "不", "but", "?", "但"]
    for _ in range(10_000):
        parts = [rng.choice(words) for _ in range(rng.randint(1, 12))]
        parts.insert(rng.randint(0, len(parts)), rng.choice(denials))
        text = " ".join(parts)
        assert verdict_words.read(text) is not True, text
        assert verdict(json.dumps({"correct": text}), "schema") is None, text


def verdict(text: str, form: str) -> bool | None:
    """Return what was read, None for no verdict; any other exception fails the test."""
    try:
        return read_reply(text, form)
    except ReplyError:
        return None
