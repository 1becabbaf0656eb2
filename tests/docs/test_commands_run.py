"""Every command of the docs and of the commands' help is typed as it stands, page by page, in the order of the page."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs import commands, files, launchers
from tests.docs.commands import Command
from tests.docs.world import World
from tests.stage.data_jobs import Ended

EVERYTHING = frozenset({"key", "server", "Hub", "minutes"})
SLOW = ("train", "verifier", "report", "export")
HELDOUT = "runs/mine/eval/heldout.sft.jsonl"
# What a page presumes: files (see files.MAKERS) and run folders.
PRESUMED = {
    "README.md": ("medqa_test.jsonl", HELDOUT),
    "chat.md": ("runs/demo",),
    "data.md": ("medqa_us.jsonl", "medqa_test.jsonl"),
    "evaluation.md": ("runs/demo",),
    "export.md": ("runs/demo",),
    "planning.md": ("mine.yaml", "my_model/config.json"),
    "report.md": ("runs/demo",),
    "verifiers.md": (
        "mine.yaml", "mine.jsonl", "problems.jsonl", HELDOUT, "evouna_nq.jsonl", "suite_en.jsonl", "truths.jsonl",
    ),
}  # fmt: skip
PAGES = [page for page in commands.PAGES if any(typed.runs for typed in commands.in_blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page(page: Path, prepare: Callable[..., World]) -> None:
    world = prepare(page.stem, PRESUMED.get(page.name, ()))
    troubles = [run(world, typed) for typed in commands.in_blocks(page) if typed.runs]
    assert not any(troubles), "\n".join(filter(None, troubles))


def run(world: World, typed: Command) -> str:
    """Run one command line and return what is wrong with it, "" for nothing; training on a GPU is a dry run here."""
    words = typed.words
    if words[0] == "cd":
        return trouble(typed, world.shell(typed.text), [])
    if words[0] in commands.LAUNCHERS:
        with world.around(typed.marks):
            words = launchers.without_launcher(words)
    if words[1] == "train" and words[words.index("--recipe") + 1] != "demo":
        if "GPU" not in typed.marks:
            return f"{typed.where}: {typed.text}: needs a GPU; mark it"
        words = [*words, "--dry-run"]
    if words[1] == "rehearse":  # what it does is tests/cli/test_rehearse.py's
        words = [*words, "--dry-run"]
    if words[1] == "bench":  # what it does is tests/cli/test_bench.py's
        words = [*words, "--size", "tiny", "--only", "environment"]
    if words[1:3] == ["data", "merge"]:
        make_parts(world, words)
    ended = world.run(words, typed.marks)
    return trouble(typed, ended, [path for path in promised(words) if not (world.folder / path).exists()])


def make_parts(world: World, words: list[str]) -> None:
    """Search on as many machines as `data merge` has parts, and on a new one merge."""
    like, to = (words[words.index(option) + 1] for option in ("--like", "--to"))
    parts = words[3 : words.index("--like")]
    for number, part in enumerate(parts, 1):
        search = f"lite-huatuo data search {like} --to {part} --teacher gpt-6-luna --shard {number}/{len(parts)}"
        world.run(search.split(), EVERYTHING)  # where it fails, the merge tells that a part is missing
    put_away(world.folder / to)


def trouble(typed: Command, ended: Ended, missing: list[str]) -> str:
    """Return what went wrong, in words; "" where nothing did."""
    if ended.code == 0 and "Traceback" not in ended.out + ended.err and not missing:
        return ""
    told = f"not written: {', '.join(missing)}" if missing else ""
    return f"{typed.where}: {typed.text}\nexit code {ended.code}; {told}\n{ended.err[-1500:]}"


def promised(words: list[str]) -> list[str]:
    """Return the paths that a command is to write: after --to and >, a run's last weights, a report, a recipe."""
    if "--dry-run" in words:
        return []
    wanted = [after for word, after in itertools.pairwise(words) if word in ("--to", ">")]
    if words[1] == "train":
        wanted.append("runs/demo/ppo/final/actor/adapter_model.safetensors")
    if words[1] == "report" and "--to" not in words:
        wanted.append(f"{words[2]}/report.html")
    if words[1:3] == ["recipes", "copy"]:
        wanted.append(words[4])
    if words[1:3] == ["data", "mix"]:
        wanted.append(f"{words[3]}/manifest.json")
    return wanted


def test_the_examples_of_the_help(prepare: Callable[..., World]) -> None:
    """Each on its own: what another example has written there is put away. What is slow and on a page is left out."""
    world = prepare("help", ("runs/demo", "runs/mine", *files.MAKERS))
    world.run(["lite-huatuo", "eval", "runs/demo/sft", "--benchmark", "medqa"], EVERYTHING)  # for `compare`
    shown = {typed.text for page in PAGES for typed in commands.in_blocks(page)}
    troubles = []
    for typed in sorted(commands.in_help(), key=lambda typed: "exported/demo --once" in typed.text):  # export it first
        if typed.runs and (typed.text not in shown or typed.words[1] not in SLOW):
            for path in [] if typed.words[1] == "train" else promised(typed.words):
                put_away(world.folder / path)
            troubles.append(run(world, with_marks(typed)))
            shown.add(typed.text)
    assert not any(troubles), "\n".join(filter(None, troubles))


def with_marks(typed: Command) -> Command:
    """Return an example of the help with all that it may need. Training anything but the demo needs a GPU."""
    gpu = (typed.words[1] == "train" and "demo" not in typed.words) or typed.words[0] in commands.LAUNCHERS
    return Command(typed.where, typed.text, EVERYTHING | ({"GPU"} if gpu else set()))


def put_away(path: Path) -> None:
    """Remove what one command has written and another is to write: a folder, a file with its side files."""
    if path.name == "manifest.json":
        path = path.parent
    if path.is_dir():
        shutil.rmtree(path)
    for each in (path, *path.parent.glob(f"{path.stem}.*.jsonl")):
        each.unlink(missing_ok=True)
