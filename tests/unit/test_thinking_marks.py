"""Hidden thinking in every mark that models are known to write, in marks that nobody knows, and in none."""

from __future__ import annotations

import json

import pytest

from lite_huatuo import thinking_marks
from lite_huatuo.data import replies
from lite_huatuo.errors import ReplyError
from lite_huatuo.evaluation import answers
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.verifier.build import final_response

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>\n", "\n</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<Thought>", "</Thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("[unused16]", "[unused17]"),
    ("【思考】", "【/思考】"),
    ("Here is my thought process:", "Here is my response:"),
]
THOUGHT = "The user wants A, or so it seems. The answer is A."
OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin"}


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_thinking_in_known_marks_is_no_part_of_a_reply(opens: str, closes: str) -> None:
    reply = f"{opens}{THOUGHT}{closes}\n\nThe answer is B."
    assert replies.read_text(reply) == "The answer is B."
    assert answers.read("strict", reply, OPTIONS) == "B"
    assert final_response(reply) in ("The answer is B.", "<|begin_of_solution|>\n\nThe answer is B.",
                                     "<|START_RESPONSE|>\n\nThe answer is B.")  # fmt: skip
    thought, said = json.dumps({"correct": False}), json.dumps({"correct": True})
    schema = SCHEMAS["judge_answer"]
    assert replies.read_object(f"{opens}{thought} {THOUGHT}{closes}\n\n{said}", schema) == {"correct": True}


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_a_reply_that_never_left_its_thinking_says_nothing(opens: str, closes: str) -> None:
    again = f"{opens}x{closes}\n{opens}{THOUGHT}" if not opens[0].isalpha() else opens + THOUGHT
    for reply in (opens + THOUGHT, again, f"{opens}{THOUGHT}{closes}\n"):
        with pytest.raises(ReplyError) as caught:
            replies.read_text(reply)
        assert caught.value.kind.startswith("ended ") or "empty" in str(caught.value)
    reply = opens + THOUGHT
    assert (answers.read("strict", reply, OPTIONS), answers.final_response(reply)) == (None, "")
    assert final_response(reply) is None
    with pytest.raises(ReplyError, match="it ended inside its"):
        replies.read_object(f'{opens}So: {{"correct": true}}', SCHEMAS["judge_answer"])


@pytest.mark.parametrize(("opens", "closes"), PAIRS[:12])
def test_a_closing_mark_may_stand_alone(opens: str, closes: str) -> None:
    assert replies.read_text(f"{THOUGHT}{closes}\n\nThe answer is B.") == "The answer is B."


@pytest.mark.parametrize("mark", ["<ponder>", "<|brainstorm|>", "[PONDER]", "[/PONDER]", "◁ponder▷", "<｜ponder｜>",
                                  '<details type="reasoning">'])  # fmt: skip
def test_a_reply_that_begins_with_a_mark_nobody_knows_is_refused_by_name(mark: str) -> None:
    reply = f"{mark}{THOUGHT} The answer is B."
    with pytest.raises(ReplyError) as caught:
        replies.read_text(reply)
    assert caught.value.kind == f"unknown mark {mark}"
    assert mark in str(caught.value)
    with pytest.raises(ReplyError, match="unknown mark"):
        replies.read_object(mark + '{"correct": true}', SCHEMAS["judge_answer"])
    assert (answers.read("strict", reply, OPTIONS), answers.answering(reply).kind) == (None, f"unknown mark {mark}")


@pytest.mark.parametrize(
    "text",
    ["[A] it is", "[ABCDE] all", "<B>", "<p>B</p>", "<https://example.org> says so", "[1] first", "<5 mg is too little",
     "Analysis: the murmur is systolic.", "analysis of the blood", "Here is my response: rest.", "【答案】B",
     "I think about it [think twice]", "Thought to be gout.", "**Thinking** helps"],
)  # fmt: skip
def test_plain_text_is_left_alone(text: str) -> None:
    assert thinking_marks.split(text) == thinking_marks.Split(text)
    assert replies.read_text(text) == text
    assert thinking_marks.seen(text) is None


def test_marks_that_frame_the_answer_come_off() -> None:
    for framed in ("<answer>B</answer>", "<think>A</think><answer>B</answer>", "<Thought>A</Thought><Output>B"):
        assert replies.read_text(framed) == "B"


def test_what_a_student_should_not_learn_is_seen_anywhere() -> None:
    assert thinking_marks.seen("Well. <think>Hm</think> B") == "<think>"
    assert thinking_marks.seen("<ponder> B") == "<ponder>"


def test_many_marks_take_linear_time() -> None:
    for piece in ("<think>", "</think>", '{"a": 1}<think>', "<", "< ", "◁ ", "[", "【 ", "analysis", "<|channel|>"):
        text = piece * (200_000 // len(piece))
        thinking_marks.split(text)
        with pytest.raises(ReplyError):
            replies.read_object(text, SCHEMAS["judge_answer"])
