"""Every package that the code imports is declared in setup.cfg, not merely brought along by another one today."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from tests.test_supply_chain import name as as_indexes_write_it

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("lite_huatuo", "tests", "benchmarks", "docs", "examples")
# extras a user asks for by name; the package may import these and no others
OF_USERS = ("unsloth", "vllm", "multi-gpu", "serve", "web", "trackio")
# installed by hand, and what imports them says so: a compiler works for many minutes, or a single tool wants them
BY_HAND = {
    "atheris": "tests/fuzz/coverage_guided.py",
    "llama_cpp": "tests/stage/test_export_llama_cpp.py",
    "lm_eval": "benchmarks/beside_lm_eval.py",
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


OWN = {*ROOMS, *(path.stem for room in ("benchmarks", "docs") for path in files(room)), "contenders"}


def imported(tree: ast.AST) -> set[str]:
    """Return the top-level names that a file imports, anywhere in it, without Python's and this repository's own."""
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - OWN


def declared(*extras: str) -> set[str]:
    """Return the distributions that setup.cfg asks for, those of some extras too."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    lines = [line.strip() for text in texts for line in text.split("\n")]
    return {as_indexes_write_it(line) for line in lines if line and not line.startswith("#")}


@cache
def distributions() -> dict[str, set[str]]:
    found = metadata.packages_distributions()
    return {module: {as_indexes_write_it(name) for name in names} for module, names in found.items()}


def undeclared(modules: set[str], known: set[str]) -> list[str]:
    """Return those modules that no known distribution has; one that is not installed is taken to be named as it is."""
    return sorted(m for m in modules if not distributions().get(m, {as_indexes_write_it(m)}) & known)


def all_extras() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return list(setup["options.extras_require"])


@pytest.mark.parametrize("path", files("lite_huatuo"), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_ships_imports_what_a_user_has_installed(path: Path) -> None:
    assert undeclared(imported(ast.parse(path.read_text("utf-8"))), declared(*OF_USERS)) == []


@pytest.mark.parametrize("room", ROOMS[1:])
def test_what_does_not_ship_imports_what_the_extras_bring(room: str) -> None:
    wrong = {}
    for path in files(room):
        place = path.relative_to(ROOT).as_posix()
        by_hand = {module for module, where in BY_HAND.items() if where == place}
        found = undeclared(imported(ast.parse(path.read_text("utf-8"))) - by_hand, declared(*all_extras()))
        if found:
            wrong[place] = found
    assert wrong == {}


def test_the_walk_finds_what_is_nowhere_declared() -> None:
    tree = ast.parse("import os, yaml\nfrom trl import x\ndef f():\n    from httpx2.y import z\nfrom . import own")
    assert imported(tree) == {"yaml", "trl", "httpx2"}
    assert undeclared(imported(tree), declared()) == ["httpx2"]


def test_what_is_installed_by_hand_is_imported_there() -> None:
    for module, where in BY_HAND.items():
        assert re.search(rf"\b(import|from) {module}\b", (ROOT / where).read_text("utf-8")), where
