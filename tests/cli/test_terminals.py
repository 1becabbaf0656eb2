"""Any terminal, and none: narrow, dumb, without colours, of another encoding, a pipe that somebody closed; files with
line ends of Windows, paths that a shell would cut.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lite_huatuo.cli import terminal
from lite_huatuo.cli.display import Display
from lite_huatuo.recipe import Recipe
from tests import made_run

Run = Callable[..., tuple[int, str, str]]
TEXT = '{"said": "0.5 ± 0.1 → 头痛 😀"}'


def command(*words: str, flags: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, *flags, "-m", "lite_huatuo", *words], env={**os.environ, **variables}, capture_output=True
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_what_an_encoding_lacks_is_written_as_json_would(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n"))
    terminal.show_all()
    terminal.console(80).print(TEXT)
    sys.stdout.write(TEXT + "\n")
    print(TEXT, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        for line in stream.buffer.getvalue().decode(encoding).split("\n")[:-1]:
            assert json.loads(line) == json.loads(TEXT)


def test_an_answer_in_another_encoding_is_no_crash() -> None:
    done = command("plan", "--recipe", "llama70b", "--gpu", "a100", PYTHONIOENCODING="cp1250")
    assert done.returncode == 0, done.stderr
    assert "each of 8 × " in done.stdout.decode("cp1250")
    done = command("recipes", "show", "demo", "--resolved", "--set", "name=头", PYTHONIOENCODING="cp1250")
    assert (done.returncode, done.stdout.decode("cp1250").split("\n")[0].strip()) == (0, "name: \\u5934")


@pytest.mark.parametrize(("columns", "widest"), [("60", 60), ("80", 80), ("300", 120)])
def test_tables_are_as_wide_as_the_terminal(columns: str, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.console(120).width == widest
    monkeypatch.delenv("COLUMNS")
    assert terminal.console(120).width == 120, "no terminal, no limit"


@pytest.mark.parametrize("variables", [{"TERM": "dumb", "FORCE_COLOR": "1"}, {}], ids=["dumb", "pipe"])
def test_progress_is_plain_lines_without_a_terminal_that_can_more(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():  # rich takes FORCE_COLOR for a terminal
        monkeypatch.setenv(name, value)
    with Display() as display:
        assert display.console.is_terminal == bool(variables)
        display.start("train sft", 2)
        display.advance(1, loss=0.5)
        display.advance(1)
    assert capsys.readouterr() == ("", "train sft 1/2  loss 0.5\ntrain sft 2/2\n")


def test_a_pipe_that_is_closed_is_no_trace() -> None:
    words = [sys.executable, "-m", "lite_huatuo", "recipes", "show", "qwen7b", "--resolved"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "words",
    [("plan", "--recipe", "qwen7b"), ("eval", "--list"), ("verifier", "check", "--kind", "exact")],
    ids=lambda words: words[0],
)
def test_nothing_warns_where_warnings_are_errors(words: tuple[str, ...]) -> None:
    done = command(*words, flags=("-W", "error"))
    assert done.returncode == 0, done.stderr
    assert b"Warning" not in done.stderr


def test_line_ends_of_windows_are_read(run: Run, short_recipe: Recipe, tmp_path: Path) -> None:
    text = yaml.safe_dump(short_recipe.model_dump())
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert run("recipes", "check", tmp_path / "mine.yaml")[:2] == (0, "ok\n")
    row = '{"id": "p", "question": "Which?", "ground_truth": "rash"}\r\n'
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + row.encode())
    code, out, err = run("data", "stats", tmp_path / "p.jsonl")
    assert (code, out.split("\n")[0]) == (0, f"{tmp_path / 'p.jsonl'}: 1 of 1 rows"), err


def test_paths_with_blanks_and_other_letters(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my runs é" / "头 1"
    made_run.write(folder)
    assert run("report", folder)[0] == 0
    assert (folder / "report.html").exists()
    code, out, _ = run("recipes", "copy", "demo", folder / "my own.yaml")
    assert code == 0
    for line in out.split("\n")[1:-1]:
        words = shlex.split(line)[1:]
        assert words[-1] == str(folder / "my own.yaml"), "as it stands it can be given to a shell"
    assert run(*shlex.split(out.split("\n")[1])[1:])[:2] == (0, "ok\n")
