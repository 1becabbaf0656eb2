"""What the page of `chat --web` shows: thinking folded, the response below, and texts that do nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_huatuo.cli import chat_page
from lite_huatuo.cli.chat_page import Shown
from lite_huatuo.cli.terminal import harmless
from lite_huatuo.response_format import render

WHOLE = render("It bleeds.\nSo what is missing?", "Vitamin C.")


class Read(HTMLParser):
    """The tags of a piece of HTML, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_every_text_is_shown_and_does_nothing(text: str) -> None:
    escaped = chat_page.escape(text)
    read = Read(f"<p>{escaped}</p>")
    assert read.tags == ["p"]
    assert read.text == harmless(text.replace("\r\n", "\n"))
    assert not set(escaped) & set("<>{}$`\\\"'\x1b\x07\u202e"), "nothing for a template or a terminal to read"


@given(st.text(), st.sampled_from([None, "ended", "cut", "stopped"]))
def test_a_replys_tags_are_the_pages_own(text: str, end: str | None) -> None:
    assert set(Read(chat_page.card("sft", Shown(text, end))).tags) <= {
        *("article", "h3", "div", "p", "details", "summary"),
    }


def test_a_finished_reply_has_its_thinking_folded() -> None:
    shown = chat_page.reply(Shown(WHOLE, "ended"))
    assert '<details class="lh-thinking"><summary>Thinking</summary>' in shown
    assert Read(shown).text == "ThinkingIt bleeds.\nSo what is missing?Vitamin C."
    assert "lh-note" not in shown


def test_the_thinking_is_open_while_it_is_written() -> None:
    for length in range(1, len(WHOLE)):
        shown = chat_page.reply(Shown(WHOLE[:length], None))
        assert (" open>" in shown) == ("## Final Response" not in WHOLE[:length]), WHOLE[:length]
        assert "#" not in Read(shown).text, "no heading, not even half of one"
        assert "lh-note" not in shown
    assert chat_page.split("Scurvy is") is None


@pytest.mark.parametrize(
    ("text", "end", "note", "text_shown"),
    [
        ("Vitamin C.", "ended", "form", "Vitamin C."),
        ("## Final Response\n\nC\n\n## Thinking\n\nx", "ended", "form", "## Final Response\n\nC\n\n## Thinking\n\nx"),
        ("## Thinking\n\nFirst.\n\n## Thinking\n\nx", "ended", "form", "## Thinking\n\nFirst.\n\n## Thinking\n\nx"),
        ("", "ended", "empty", ""),
        (" \n", "cut", "cut", ""),
        ("", "stopped", "stopped", ""),
        ("", None, "waiting", ""),
        ("", "nothing", "nothing", ""),
        (WHOLE, "cut", "cut", "Vitamin C."),
        ("## Thinking\n\nIt bl", "cut", "early", "It bl"),
        ("## Thinking\n\nIt bl", "stopped", "stopped", "It bl"),
    ],
)
def test_what_is_odd_is_noted_and_shown_as_it_is(text: str, end: str | None, note: str, text_shown: str) -> None:
    read = Read(chat_page.reply(Shown(text, end)))
    assert chat_page.NOTES[note] in read.text
    assert text_shown in read.text


def test_a_failure_is_told_and_escaped() -> None:
    assert "No reply: &lt;b&gt;" in chat_page.reply(Shown("No reply: <b>", "failed"))


def test_the_past_stands_newest_first_with_all_replies() -> None:
    turns = [(f"Question {n}?", {"base": Shown(f"b{n}", "ended"), "sft": Shown(WHOLE, "ended")}) for n in range(3)]
    text = Read(chat_page.history(turns)).text
    assert re.findall(r"Question \d\?|Base|After SFT|b\d", text) == [
        *("Question 2?", "Base", "b2", "After SFT"),
        *("Question 1?", "Base", "b1", "After SFT"),
        *("Question 0?", "Base", "b0", "After SFT"),
    ]
    assert chat_page.history([]) == ""


def test_the_disclaimer_is_in_two_languages() -> None:
    assert "Not for clinical use." in chat_page.DISCLAIMER
    assert "不得用于临床" in chat_page.DISCLAIMER
