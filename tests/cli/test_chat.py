"""The reply printer: what is dim, what is plain, and what never reaches the terminal."""

from __future__ import annotations

import pytest

from lite_huatuo.cli.chat import ReplyPrinter
from lite_huatuo.response_format import render

DIM, END = "\x1b[2m", "\x1b[0m"


def printed(text: str, capsys: pytest.CaptureFixture[str], *, piece: int, color: bool = True) -> str:
    printer = ReplyPrinter(color=color)
    for start in range(0, len(text), piece):
        printer.feed(text[start : start + piece])
    printer.close()
    return capsys.readouterr().out


def plain(shown: str) -> str:
    return shown.replace(DIM, "").replace(END, "")


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_text_comes_through_whole_however_it_is_cut(capsys: pytest.CaptureFixture[str], piece: int) -> None:
    text = render("A # in a line.\n## not a heading\nDone.", "The answer.")
    assert plain(printed(text, capsys, piece=piece)) == text + "\n"


@pytest.mark.parametrize("piece", [1, 5])
def test_thinking_is_dim_and_the_final_response_plain(capsys: pytest.CaptureFixture[str], piece: int) -> None:
    shown = printed(render("Hmm.", "Water."), capsys, piece=piece)
    before, after = shown.split("## Final Response")
    assert DIM in before
    assert DIM not in after
    assert "Water." in after


def test_no_escape_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed("\x1b[31mred\x07\x9b2J\r\n中文 é\tend", capsys, piece=2, color=False)
    assert shown == "[31mred2J\n中文 é\tend\n"
