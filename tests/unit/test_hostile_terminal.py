"""Hostile text on the terminal: whatever data, replies, names and errors hold, nothing of it steers the terminal."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import lite_huatuo
from lite_huatuo import jsonl
from lite_huatuo.cli import results, scores, terminal
from lite_huatuo.cli.display import Display
from lite_huatuo.run_dir import RunDir

NASTY = (
    "\x1b[2J\x1b]8;;http://evil\x07[red]bold[/red] [link=http://evil]x[/link] \x9b31m \u202egnp.exe \udc80 :smile:\r"
)
CLI = Path(lite_huatuo.__file__).parent / "cli"
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
OTHERS = {"chat", "report"}  # the one writes replies as they come and is tested for itself, the other tells a path


def steers(text: str) -> list[str]:
    """Return the characters of an output that a terminal would obey."""
    return [c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in TURNS]


@given(st.text(st.characters(codec=None)))
def test_nothing_that_steers_is_left_and_all_else_is(text: str) -> None:
    shown = terminal.harmless(text)
    assert not steers(shown)
    shown.encode("utf-8")
    assert shown == "".join(f"\\u{ord(c):04x}" if steers(c) else c for c in text)


@given(st.text(st.characters(codec=None)))
def test_json_stays_the_json_it_was(text: str) -> None:
    printed = terminal.harmless(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(printed) == {"text": text}


def test_a_table_shows_what_it_is_given_letter_by_letter(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = Table("[bold]head[/bold]", title="[red]title[/red] \x1b[2J")
    drawn.add_row(NASTY)
    terminal.console(200).print(drawn)
    out = capsys.readouterr().out
    assert not steers(out)
    for written in (
        "[red]bold[/red]",
        "[link=http://evil]x[/link]",
        ":smile:",
        "[bold]head",
        "[red]title",
        "\\u001b[2J",
    ):
        assert written in out


def test_the_tables_of_eval_and_compare(capsys: pytest.CaptureFixture[str]) -> None:
    each: dict[str, Any] = {
        "accuracy": 0.5, "low": 0.4, "high": 0.6, "questions": 3, "runs": [1], "standard_error_over_runs": None,
        "shuffle_spread": None, "tokens_mean": None,
        **{name: {"share": 0.0} for name in ("unread", "empty", "cut")},
    }  # fmt: skip
    terminal.console(300).print(scores.table(NASTY, {NASTY: each}))
    row = {"n": 1, "first": 0.0, "second": 0.0, "difference": 0.0, "low": 0.0, "high": 0.0, "only_first": 0,
           "only_second": 0, "p": 1.0}  # fmt: skip
    terminal.console(300).print(scores.compared(NASTY, NASTY, {"benchmarks": {NASTY: row}, "overall": row}))
    out = capsys.readouterr().out
    assert not steers(out)
    assert out.count("[red]bold[/red]") >= 4


def test_a_sample_reply_question_and_ground_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = NASTY.replace("\udc80", "")
    row = {"question": text, "reply": text, "ground_truth": text, "score": 1.0, "well_formed": True}
    (tmp_path / "eval").mkdir()
    jsonl.write(tmp_path / "eval" / "heldout.ppo.jsonl", [row])
    terminal.say(results.sample(RunDir(tmp_path)))
    out = capsys.readouterr().out
    assert not steers(out)
    assert out.count("\\u001b[2J") == 3


def test_progress_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.start(NASTY, 1)
        display.advance(1, loss=0.5)
        display.note(NASTY)
    err = capsys.readouterr().err
    assert not steers(err)
    assert err.count("[red]bold[/red]") == 2


@pytest.mark.parametrize(
    "words",
    [
        ["recipes", "show", "\x1b[2J\x9b"],
        ["recipes", "show", "{file}"],
        ["recipes", "check", "{file}"],
        ["recipes", "copy", "\x1b[2J", "there.yaml"],
        ["train", "--recipe", "demo", "--set", "\x1b[2J=1"],
        ["verifier", "check", "--kind", "exact", "--no-suite", "--judged", "{data}"],
        ["data", "stats", "{data}"],
        ["eval", "x", "--benchmark", "\x1b[2J"],
        ["compare", "\x1b[2J", "x"],
        ["\x1b[2J"],
    ],
    ids=lambda words: " ".join(words[:2]).replace("\x1b", "ESC").replace("\x9b", "CSI"),
)
def test_errors_and_results_of_commands(words: list[str], tmp_path: Path) -> None:
    """In a process of its own, as a user runs it: through main(), which prints every error."""
    recipe, data = tmp_path / "a\x1b[2Jb.yaml", tmp_path / "a\x1b[2Jb.jsonl"
    recipe.write_text("# \x1b[2J\u202e\nname: [red]\n\"\\e[2J\": '[red]\u202e'\n", encoding="utf-8")
    data.write_text('{"question": "q", "\\u001b[2J": 1}\n', encoding="utf-8")
    command = [word.format(file=recipe, data=data) if "{" in word else word for word in words]
    code = "from lite_huatuo.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, cwd=tmp_path, timeout=120)
    out = (done.stdout + done.stderr).decode("utf-8")
    assert not steers(out), out
    assert "Traceback" not in out
    assert out.strip()


def test_no_command_prints_past_terminal() -> None:
    """A command that prints by itself would let through what terminal stops."""
    found = []
    for path in sorted(CLI.glob("*.py")):
        if path.stem in ("terminal", *OTHERS) or path.stem.startswith("chat"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("click.echo", "click.secho", "print", "Console", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"{path.name}:{node.lineno}: {name}")  # type: ignore[attr-defined]
    assert found == []
