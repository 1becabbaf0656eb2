"""The terminal chat: who answers, what is dim, what is plain, and what never reaches the terminal."""

from __future__ import annotations

import importlib.util
import io
import signal
from collections.abc import Callable

import click.termui
import pytest

from lite_huatuo.cli.chat import ReplyPrinter
from lite_huatuo.response_format import parse, render
from lite_huatuo.run_dir import RunDir
from tests.scripted_server import ScriptedServer

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


def test_a_student_an_exported_model_and_an_endpoint_answer(
    run: Callable[..., tuple[int, str, str]], toy_run: RunDir, toy: dict[str, str]
) -> None:
    code, out, err = run("chat", toy_run.path, "--once", "Patient 3 has rash. Which cure?")
    assert code == 0, err
    assert parse(out) is not None, "a student that was trained writes the form"
    code, base, _ = run("chat", f"{toy_run.path}/base", "--once", "Patient 3 has rash. Which cure?", "--max-tokens", 5)
    assert (code, base != out) == (0, True)
    assert run("chat", toy["model"], "--once", "Why?", "--max-tokens", 5)[0] == 0
    with ScriptedServer(lambda request: "\x1b[2J\x1b]0;owned\x07Take \u202erest.") as server:
        code, out, _ = run("chat", server.url, "--set", "model=m", "--once", "Why?")
    assert (code, out) == (0, "[2J]0;ownedTake rest.\n"), "nothing for the terminal to obey"


@pytest.mark.parametrize(
    ("variables", "dims"),
    [
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_thinking_is_dim_where_the_terminal_can_and_the_reader_wants_it(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], dims: bool
) -> None:
    for name, value in {"FORCE_COLOR": "1", **variables}.items() if variables else ():
        monkeypatch.setenv(name, value)
    with ScriptedServer(lambda request: render("Hmm.", "Water.")) as server:
        code, out, _ = run("chat", server.url, "--set", "model=m", "--once", "Why?")
    assert (code, DIM in out) == (0, dims), out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_prompt_is_one_and_the_end_of_input_is_none(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    words = ("chat", "http://127.0.0.1:9/v1", "--set", "model=m")
    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda _: signal.raise_signal(number))
    assert run(*words)[0] == 128 + number
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setattr(click.termui, "visible_prompt_func", input)
    assert run(*words)[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["runs/none", "--web", "--once", "Why?"], 2, "--web and --once exclude each other"),
        (["runs/none", "--port", "7000"], 2, "--port and --host are for --web"),
        (["runs/none", "--host", "0.0.0.0"], 2, "--port and --host are for --web"),
        (["./none"], 1, "no such folder"),
        (["http://127.0.0.1:9/v1", "--set", "model=m", "--once", "Why?"], 1, "nobody answers there"),
    ],
)
def test_mistakes_are_told(run: Callable[..., tuple[int, str, str]], words: list[str], code: int, told: str) -> None:
    found, _, err = run("chat", *words)
    assert (found, told in err, "Traceback" in err) == (code, True, False), err


def test_without_gradio_the_web_says_what_to_install(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find_spec(name))
    code, _, err = run("chat", "runs/none", "--web")
    assert (code, err) == (
        1, "error: chat --web: gradio is not installed; run `pip install 'lite-huatuo[web]'`\n"
    )  # fmt: skip
