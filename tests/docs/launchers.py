"""Commands that start ours, or run in the repository: read by the parsers that would read them, without the work."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from packaging.requirements import Requirement
from torch.distributed.run import get_args_parser

from tests.docs.commands import ROOT

MODULE = "lite_huatuo"
BROWSER = ROOT / "tests" / "browser"


class _Read(Exception):
    """The command line was read; nothing else is to happen."""


def without_launcher(words: list[str]) -> list[str]:
    """Return the `lite-huatuo …` words that a launcher would run, after its own parser has read the rest."""
    if words[0] == "srun":  # no parser of it is at hand
        return words[words.index("lite-huatuo") :]
    if words[:2] == ["accelerate", "launch"]:
        given = launch_command_parser().parse_args(words[2:])
        _validate_launch_command(given)  # reads the configuration file, where there is one
    else:
        assert words[0] == "torchrun", words
        given = get_args_parser().parse_args(words[1:])
    assert given.module, "the module is started as one"
    assert given.training_script == MODULE
    return ["lite-huatuo", *given.training_script_args]


def read_python(words: list[str]) -> None:
    """Let a script or module, named as after `python`, read its arguments; AssertionError where it refuses them."""
    as_module = words[0] == "-m"
    script, *arguments = words[1:] if as_module else words
    if not as_module and "argparse" not in (source := (ROOT / script).read_text()):
        assert all(f'"{argument}"' in source for argument in arguments), words
        return
    shown = io.StringIO()
    with _stopped_when_read(script, arguments), contextlib.redirect_stderr(shown):
        try:
            if as_module:
                runpy.run_module(script, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
        except _Read:
            return
        except SystemExit as ended:
            raise AssertionError(f"{' '.join(words)}: {shown.getvalue()}") from ended
    raise AssertionError(f"{script} reads no arguments")


def help_of(script: str) -> str:
    """Return what a benchmark script prints for --help."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        _as_started(patch, script, ["--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not ended.value.code
    return shown.getvalue()


def read_pip(words: list[str]) -> None:
    """Check `pip install …`: options that pip knows, and requirements, or this repository with extras of its own."""
    assert words[1] == "install", words
    for word in words[2:]:
        if word.startswith("-"):
            assert word in ("--no-deps", "-e"), f"pip install {word}: look it up and add it here"
            continue
        wanted = Requirement(f"lite-huatuo{word[1:]}" if word.startswith(".") else word)
        if wanted.name == "lite-huatuo":
            assert wanted.extras <= set(metadata.metadata("lite-huatuo").get_all("Provides-Extra") or ()), word


def read_audit(words: list[str]) -> None:
    """Check `pip-audit -r FILE`."""
    assert words[1] == "-r"
    assert (ROOT / words[2]).is_file()


def read_make(words: list[str]) -> None:
    """Let make read its targets and variables without doing anything."""
    _quietly(["make", "-n", *words[1:]])


def read_bash(words: list[str]) -> None:
    """Let bash read a script without running it."""
    _quietly(["bash", "-n", *words[1:]])


def read_pytest(words: list[str]) -> tuple[Path, str, str]:
    """Return the path, the mark ("" for none) and the word (-k) by which `pytest …` chooses its tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", nargs="?")
    parser.add_argument("-m", default="")
    parser.add_argument("-k", default="")
    parser.add_argument("-s", action="store_true")
    given = parser.parse_args(words[1:])
    path = ROOT / given.path if given.path else BROWSER if given.m == "browser" else ROOT / "tests"
    assert path.exists(), path
    return path, given.m, given.k


def collected(paths: list[str]) -> list[pytest.Item]:
    """Return the tests that pytest finds in these paths, whatever their marks."""

    class Found:
        items: list[pytest.Item]

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.items = session.items

    found = Found()
    words = [*paths, "-m", "slow or not slow", "-s", "--collect-only", "-p", "no:cacheprovider", "-p", "no:cov"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = pytest.main([f"--rootdir={ROOT}", *words], plugins=[found])
    assert code == pytest.ExitCode.OK, shown.getvalue()
    return found.items


@contextlib.contextmanager
def _stopped_when_read(script: str, arguments: list[str]) -> Iterator[None]:
    """Be as if a script were started; end it once its arguments are read."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: object) -> NoReturn:
        parse(parser, *given)  # type: ignore[arg-type]
        raise _Read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        _as_started(patch, script, arguments)
        yield


def _as_started(patch: pytest.MonkeyPatch, script: str, arguments: list[str]) -> None:
    patch.setattr(sys, "argv", [script, *arguments])
    patch.syspath_prepend(str(ROOT))
    patch.syspath_prepend(str((ROOT / script).parent))
    importlib.invalidate_caches()


def _quietly(words: list[str]) -> None:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
