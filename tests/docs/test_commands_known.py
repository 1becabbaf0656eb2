"""Commands that no test runs are marked, and read by those who would run them: argparse, make, bash, pip, pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from lite_huatuo.cli.main import COMMANDS, cli
from tests.docs import commands, launchers
from tests.docs.commands import Command

PAGES = [page for page in commands.PAGES if page != commands.GENERATED]
IN_BLOCKS = [typed for page in PAGES for typed in commands.in_blocks(page)]
NOT_RUN = [typed for typed in IN_BLOCKS if not typed.runs]
IN_TEXT = [typed for page in PAGES for typed in commands.in_text(page)]
READERS: dict[str, Callable[[list[str]], object]] = {
    "python": lambda words: launchers.read_python(words[1:]),
    "make": launchers.read_make,
    "bash": launchers.read_bash,
    "pip": launchers.read_pip,
    "pip-audit": launchers.read_audit,
    "pytest": lambda words: None,  # see test_the_tests_that_the_docs_name_are_there
    "lite-huatuo": lambda words: None,  # see test_commands_and_options_exist
}


PAGE = """Once `make lint` is done, `lite-huatuo doctor` tells more.

```sh
lite-huatuo doctor --json    # all of it, C# too [Hub, key]
# a comment alone
PYTHONPATH=. python docs/x.py a#b \\
  --more "# no comment"
```

    make test  # [minutes]
    indented words

```
  pip install .
Usage: make [OPTIONS]
```
"""


def test_commands_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert commands.in_blocks(page) == [
        Command("page.md:4", "lite-huatuo doctor --json", frozenset({"Hub", "key"})),
        Command("page.md:6", 'PYTHONPATH=. python docs/x.py a#b --more "# no comment"'),
        Command("page.md:10", "make test", frozenset({"minutes"})),
    ]
    assert [typed.text for typed in commands.in_text(page)] == ["make lint", "lite-huatuo doctor"]
    assert commands.in_other_blocks(page) == ["pip install ."]


def test_every_command_s_help_has_an_example() -> None:
    shown = {typed.where.removeprefix("help of ") for typed in commands.in_help()}
    assert {f"lite-huatuo {name}" for name in COMMANDS} <= shown


def name(typed: Command) -> str:
    return f"{typed.where} {typed.text}"


def read(typed: Command) -> None:
    """Let the one who would run a command read it; fails where nobody here knows it."""
    words = typed.words[1:] if "=" in typed.words[0] else typed.words  # PYTHONPATH=. python …
    assert words[0] in READERS, f"{typed.where}: {typed.text}: neither run nor read by a test; say how in tests/docs"
    READERS[words[0]](words)


@pytest.mark.parametrize("typed", NOT_RUN, ids=name)
def test_what_is_not_run_is_marked(typed: Command) -> None:
    assert typed.marks, f"{typed.where}: {typed.text}: neither run in a test nor marked; see tests/docs/commands.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marks_are_known_and_explained(page: Path) -> None:
    for typed in commands.in_blocks(page):
        assert typed.marks <= set(commands.MARKS), typed
    readme = (commands.ROOT / "README.md").read_text()
    assert all(f"[{mark}]" in readme for mark in commands.MARKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_commands_are_said_to_be_a_shell_s(page: Path) -> None:
    assert not commands.in_other_blocks(page), "begin the block with ```sh"


@pytest.mark.parametrize("typed", NOT_RUN, ids=name)
def test_what_is_not_run_can_be_read(typed: Command) -> None:
    read(typed)


@pytest.mark.parametrize("typed", [typed for typed in IN_TEXT if not typed.runs], ids=name)
def test_commands_in_sentences_can_be_read(typed: Command) -> None:
    for part in typed.text.split(" && "):
        read(Command(typed.where, part))


@pytest.mark.parametrize("typed", [typed for typed in [*IN_BLOCKS, *IN_TEXT] if "lite-huatuo" in typed.words], ids=name)
def test_commands_and_options_exist(typed: Command) -> None:
    words, command, context = typed.words[typed.words.index("lite-huatuo") + 1 :], cli, click.Context(cli)
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, typed.text
        command = found
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= options, used - options


def test_every_command_is_shown_in_the_readme() -> None:
    shown = {typed.words[1] for typed in IN_BLOCKS if typed.page == "README.md" and typed.words[0] == "lite-huatuo"}
    assert set(COMMANDS) <= shown


SCRIPTS = sorted({word for typed in [*IN_BLOCKS, *IN_TEXT] for word in typed.words if word.startswith("benchmarks/")})


@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmarks_that_the_docs_name_tell_their_options(script: str) -> None:
    assert "usage:" in launchers.help_of(script)


TESTS = sorted({typed.text for typed in [*IN_BLOCKS, *IN_TEXT] if typed.words[0] == "pytest"})


def test_the_tests_that_the_docs_name_are_there() -> None:
    named = {text: launchers.read_pytest(text.split()) for text in TESTS}
    found = launchers.collected(sorted({str(path) for path, _, _ in named.values() if path != launchers.BROWSER}))
    for text, (path, mark, word) in named.items():
        if path == launchers.BROWSER:  # these files import extras
            assert "pytest.mark.browser" in (path / "test_report_page.py").read_text()
            continue
        chosen = [item for item in found if item.path.is_relative_to(path) and word in item.nodeid]
        assert [item for item in chosen if not mark or item.get_closest_marker(mark)], text
