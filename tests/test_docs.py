"""The docs are true: generated parts are fresh, links lead somewhere, commands and options exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from lite_huatuo.cli.main import COMMANDS, cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def load_generator():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_fresh() -> None:
    generator = load_generator()
    stale = [name for name in generator.FILES if generator.fill((ROOT / name).read_text()) != (ROOT / name).read_text()]
    assert not stale, "run python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def commands_in(page: Path) -> list[list[str]]:
    """Return the words of every `lite-huatuo …` line in the page's shell blocks."""
    blocks = re.findall(r"^(?:```(?:sh|bash)\n(.*?)```)", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").split("\n")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("lite-huatuo ")]


@pytest.mark.parametrize("words", [w for page in PAGES for w in commands_in(page)], ids=" ".join)
def test_commands_and_options_exist(words: list[str]) -> None:
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"no command {name}"
        command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known, used - known


def test_the_readme_shows_commands() -> None:
    shown = {words[0] for words in commands_in(ROOT / "README.md")}
    assert set(COMMANDS) <= shown, "every command is shown in the README"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert (
            set(
                re.findall(
                    r"`?make ([\w-]+)",
                    "\n".join(
                        line
                        for line in page.read_text().split("\n")
                        if line.startswith(("    make", "make")) or "`make" in line
                    ),
                )
            )
            <= targets
        ), page


def test_the_file_tree_of_the_readme_exists() -> None:
    tree = re.search(r"```text\n(lite_huatuo/.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    folder = ROOT
    for line in tree[1].split("\n"):
        if not line.strip():
            continue
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name
            assert folder.exists(), name
        else:
            assert (ROOT / "lite_huatuo" / name).exists(), name
