"""Every command that the docs and the commands' help show, read from where it stands.

A command is a line of a shell block: fenced as `sh`, or indented by four spaces. A mark that ends its comment says what
it needs and not everybody has: `lite-huatuo … # the price, first [key]`, `# [GPU, Hub]`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from lite_huatuo.cli.main import COMMANDS, cli

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GENERATED = ROOT / "docs" / "cli.md"  # the commands' help: its examples are read from the commands

# What a command may need beyond what everybody has. Without a mark it runs as it stands, without any of these.
MARKS = {
    "GPU": "a CUDA card",
    "key": "an endpoint's API key in the environment",
    "server": "a model server of one's own",
    "Hub": "the Hugging Face Hub",
    "net": "another download",
    "web": "the extra of that name",
    "ollama": "Ollama",
    "minutes": "patience",
}
LAUNCHERS = ("accelerate", "torchrun", "srun")
SHELL = ("sh", "bash", "shell", "console")
PROGRAMS = (
    "lite-huatuo", *LAUNCHERS, "python", "pytest", "make", "pip", "bash", "ollama", "cd",
)  # fmt: skip
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(rf"^    (?=(?:{'|'.join(PROGRAMS)}) )", re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s+)#(?:\s+|$)")
MARK = re.compile(r"\[([\w, ]+)\]$")
INLINE = re.compile(rf"`((?:\w+=\S+ )?(?:{'|'.join(PROGRAMS)}) [^`\n]+)`")
BEGINNING = re.compile(rf"^ *(?:\w+=\S+ )?(?:{'|'.join(PROGRAMS)}) [^ ].*", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command line: where it stands, what is typed (without its comment), and its marks."""

    where: str  # README.md:44, or the command whose help shows it
    text: str
    marks: frozenset[str] = frozenset()

    @property
    def words(self) -> list[str]:
        """The words of the line, as a shell would split it."""
        return shlex.split(self.text)

    @property
    def runs(self) -> bool:
        """Whether the tests here run it: lite-huatuo, through a launcher or not, and what follows `cd`.

        A page (--web) is served in tests/browser, where its extra is installed.
        """
        return self.words[0] in ("lite-huatuo", *LAUNCHERS, "cd") and "--web" not in self.words

    @property
    def page(self) -> str:
        """The page that shows it."""
        return self.where.partition(":")[0]


def in_blocks(page: Path) -> list[Command]:
    """Return the commands of a page's shell blocks, in their order; every line of such a block is one."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        if match[2] in SHELL:
            found += list(_lines(page, _line_of(text, match.start(3)), match[3]))
    outside = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in INDENTED.finditer(outside):
        line = outside[match.end() :].partition("\n")[0]
        found += list(_lines(page, _line_of(outside, match.start()), line))
    return sorted(found, key=lambda command: int(command.where.partition(":")[2]))


def in_text(page: Path) -> list[Command]:
    """Return the commands that stand in backquotes within a page's sentences and tables."""
    text = page.read_text(encoding="utf-8")
    outside = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    return [Command(f"{page.name}:{_line_of(outside, m.start())}", m[1]) for m in INLINE.finditer(outside)]


def in_other_blocks(page: Path) -> list[str]:
    """Return the lines that look like commands, but stand in a block that is not said to be one of a shell."""
    text = page.read_text(encoding="utf-8")
    blocks = (match[3] for match in FENCE.finditer(text) if match[2] not in SHELL)
    return [found[0].strip() for block in blocks for found in BEGINNING.finditer(block)]


def in_help() -> list[Command]:
    """Return the examples in the help of every command: the blocks after a `\\b`."""
    found = []
    for name, command in _commands():
        for block in re.findall(r"^[ ]*\x08\n(.*?)(?:\n\n|\Z)", command.help or "", re.DOTALL | re.MULTILINE):
            found += [Command(f"help of {name}", line.strip()) for line in block.split("\n") if BEGINNING.match(line)]
    return found


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command and subcommand with its name."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield f"lite-huatuo {name}", command
        if isinstance(command, click.Group):
            for sub, child in command.commands.items():
                yield f"lite-huatuo {name} {sub}", child


def _lines(page: Path, first: int, block: str) -> Iterator[Command]:
    """Yield the commands of a block that begins on line `first`; a backslash joins lines, a bare comment is none."""
    number = first
    for whole in re.split(r"(?<!\\)\n", block):
        typed, *comment = COMMENT.split(whole.replace("\\\n", " "), maxsplit=1)
        mark = MARK.search(comment[0].strip()) if comment else None
        marks = frozenset(re.split(r",\s*", mark[1])) if mark else frozenset()
        if typed.strip():
            yield Command(f"{page.name}:{number}", " ".join(typed.split()) if "\\\n" in whole else typed.strip(), marks)
        number += whole.count("\n") + 1


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
