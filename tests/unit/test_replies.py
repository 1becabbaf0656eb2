"""Replies: what was meant is read whatever it is wrapped in, and what is not certain is refused, never mis-read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lite_huatuo.data.replies import read_object, read_text
from lite_huatuo.errors import ReplyError
from lite_huatuo.prompts.schemas import SCHEMAS

BOOLEAN, STRING = {"type": "boolean"}, {"type": "string"}
JUDGE = {"type": "object", "properties": {"text": STRING, "correct": BOOLEAN}, "required": ["text", "correct"]}
THOUGHTS = SCHEMAS["first"]

# Everything that trips readers: quotes, braces, escapes, separators, tags and whole objects inside strings.
MARKS = "\"\\{}[]:,'\n\t\0\x85\u2028\ufeff\u00a0😀"
WORDS = [
    "\r\n",
    ",}",
    "```json\n",
    "麻疹",
    "</think>",
    "<think>",
    '{"text": "x", "correct": false}',
    "true",
    "\\u0041",
    "//",
]
TRAPS = st.sampled_from([*MARKS, *WORDS])
TEXT = st.lists(TRAPS | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=8).map("".join)
PROSE = st.lists(
    st.sampled_from(
        ["Sure! ", "```json\n", "```", "\n\n", "{as asked} ", "the answer: ", "“so” ", "[1] ", "it's 5' 3\" ", "{} "]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters='{}"<>'), max_size=10),
    max_size=5,
).map("".join)
OBJECTS = st.fixed_dictionaries({"text": TEXT, "correct": st.booleans()})
STEPS = st.lists(
    st.fixed_dictionaries({"action": st.sampled_from(["think", "verify"]), "title": TEXT, "content": TEXT})
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


def refused(text: str, schema: dict[str, Any] = JUDGE) -> str:
    with pytest.raises(ReplyError) as caught:
        read_object(text, schema)
    return str(caught.value)


def trailing_commas(value: Any) -> str:
    """Write JSON by hand, a comma after every last entry."""
    if isinstance(value, dict):
        return "{" + "".join(f"{json.dumps(k)} : {trailing_commas(v)}\n," for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + "".join(f"{trailing_commas(v)}, " for v in value) + "]"
    return json.dumps(value)


@settings(max_examples=200)
@given(PROSE, OBJECTS, PROSE, st.booleans())
def test_an_object_is_read_out_of_prose(before: str, value: dict, after: str, ascii_only: bool) -> None:
    text = before + json.dumps(value, ensure_ascii=ascii_only) + after
    assert read_object(text, JUDGE) == value


@settings(max_examples=100)
@given(st.fixed_dictionaries({"steps": STEPS, "conclusion": TEXT}), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_nested_replies_are_read_however_they_are_set_out(value: dict, indent: Any, commas: bool) -> None:
    text = trailing_commas(value) if commas else json.dumps(value, indent=indent, ensure_ascii=False)
    assert read_object(f"```json\n{text}\n```", THOUGHTS) == value


@settings(max_examples=100)
@given(OBJECTS, st.dictionaries(st.text("abcxyz", min_size=1), JSON, max_size=4))
def test_keys_nobody_asked_for_are_left_out(value: dict, extra: dict) -> None:
    assert read_object(json.dumps({**extra, **value}), JUDGE) == value


@settings(max_examples=200)
@given(OBJECTS, st.data())
def test_half_an_object_is_never_read(value: dict, data: st.DataObject) -> None:
    text = json.dumps(value)
    refused(text[: data.draw(st.integers(0, len(text) - 1))])


@settings(max_examples=200)
@given(PROSE, OBJECTS, PROSE, OBJECTS)
def test_two_different_objects_are_refused_and_the_same_one_twice_is_read(
    before: str, one: dict, between: str, other: dict
) -> None:
    text = f"{before}{json.dumps(one)} {between} {json.dumps(other)}"
    if one == other:
        assert read_object(text, JUDGE) == one
    else:
        assert "different objects" in refused(text)


@settings(max_examples=300)
@given(
    st.lists(TRAPS | st.sampled_from(['{"', '"text"', '"correct"', ": ", "false", "null", "-1.5e3", " "]), max_size=40)
)
@example(['{"text": "a", "correct": true', "}"])
def test_any_text_is_read_by_the_schema_or_refused(pieces: list[str]) -> None:
    try:
        value = read_object("".join(pieces), JUDGE)
    except ReplyError:
        return
    assert set(value) == {"text", "correct"}
    assert isinstance(value["text"], str)
    assert isinstance(value["correct"], bool)


@settings(max_examples=100)
@given(OBJECTS, OBJECTS, st.sampled_from(["<think>", "", "<think>\nHm. {"]))
def test_what_was_thought_before_does_not_count(thought: dict, value: dict, opening: str) -> None:
    text = f"{opening} maybe {json.dumps(thought)}? No. </think>\n{json.dumps(value)}"
    assert read_object(text, JUDGE) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("yes, it is correct", "no JSON object"),
        ('{"text": "a"}', "lacks the key correct"),
        ('{"text": "a", "right": true}', "lacks the key correct"),
        ('{"text": "a", "correct": "maybe"}', "correct must be of type boolean"),
        ('{"text": "a", "correct": 1}', "correct must be of type boolean"),
        ('{"text": "a", "correct": yes}', "broken"),
        ('{"text": "a", "correct": True}', "broken"),
        ("{'text': 'a', 'correct': true}", "no JSON object"),
        ('{"text": ["a"], "correct": true}', "text must be of type string, not an array"),
        ('{"text": "a", "correct": true, "correct": false}', "stands twice"),
        ('{"text": "\\ud83d", "correct": true}', "half a character"),
        ('{"text": "\\alpha", "correct": true}', "escape"),
        ('{"text": "a",, "correct": true}', "broken"),
        ('{"text": "a" "correct": true}', "broken"),
        ('{"text": "a", "correct": true]', "broken"),
        ('{"reply": {"text": "a", "correct": true}}', "lacks the key text"),
        ('{right: no, was: {"text": "a", "correct": true}}', "inside one that is broken"),
        ('<think> {"text": "a", "correct": true}', "inside its <think> part"),
        ('<think> {"text": "a", "correct": true} </think>', "with its <think> part"),
        ('{"text": "a", "correct": true, "x": ' + '{"x": ' * 99 + "1" + "}" * 100, "inside one another"),
    ],
)
def test_refusals_tell_why_and_where_the_reply_begins(text: str, reason: str) -> None:
    message = refused(text)
    assert reason in message
    assert " ".join(text.split())[:40] in message
    assert "\n" not in message
    assert len(message) < 300


def test_an_object_swallowed_by_an_unclosed_string_still_counts() -> None:
    text = '{"text": "no closing quote}\n{"text": "a", "correct": false} {"text": "b", "correct": true}'
    assert "different objects" in refused(text)


@pytest.mark.parametrize("written", ["true", '"true"', '"TRUE"', '"True"'])
def test_a_boolean_may_be_written_as_its_word(written: str) -> None:
    assert read_object(f'{{"text": "", "correct": {written}}}', JUDGE)["correct"] is True


def test_raw_line_ends_inside_strings_stand_for_themselves() -> None:
    text = '{"text": "one\ntwo\ttabs\u2028three", "correct": false}'
    assert read_object(text, JUDGE)["text"] == "one\ntwo\ttabs\u2028three"


def test_enums_and_numbers_are_exact() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "x": {"type": "number"}},
        "required": ["n", "x"],
    }
    assert read_object('{"n": -3, "x": 2.5e1}', schema) == {"n": -3, "x": 25.0}
    assert "n must be of type integer" in refused('{"n": 3.0, "x": 1}', schema)
    assert "n must be of type integer" in refused('{"n": true, "x": 1}', schema)
    assert "x must be of type number" in refused('{"n": 1, "x": 1e999}', schema)
    assert "broken" in refused('{"n": 007, "x": 1}', schema)
    step = '{"steps": [{"action": "Think", "title": "", "content": ""}], "conclusion": ""}'
    assert "steps[0].action must be one of think, verify" in refused(step, THOUGHTS)


def test_long_replies_are_read_and_hostile_ones_refused() -> None:
    value = {"text": '{"a": [1, "}\\"' * 10_000, "correct": True}
    assert read_object(f"Well. {json.dumps(value)} Done.", JUDGE) == value
    for piece in (
        '{"a":',
        '{"',
        '{ "x ',
        '{"a":"{\\"',
        "{",
        '{"a":1 ',
        "[",
        '"',
        "\\",
        '{"a":[{"b":1},',
        "{" + " " * 99,
    ):
        refused(piece * (200_000 // len(piece)))
    refused('{"text": "", "correct": true, "n": ' + "9" * 100_000 + "}")


def test_plain_text_is_read_without_what_was_thought_before() -> None:
    assert read_text(" Rest and fluids.\n") == "Rest and fluids."
    assert read_text("<think>Hm.</think>\n\nRest.") == "Rest."
    assert read_text("Hm.</think>Rest.") == "Rest."
    for text in ("", " \n", "<think>Hm.", "<think>Hm.</think> "):
        with pytest.raises(ReplyError):
            read_text(text)
