"""The checks of test_floors themselves: each finds what it is for, and lets pass what is right."""

from __future__ import annotations

import ast

import pytest

from tests.test_floors import FUNCTION_LINES, broken_floors, broken_libraries, floor, too_long


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("training.sft", "from lite_huatuo.training import ppo", "stages talk through files"),
        ("training.ppo", "def f():\n    from lite_huatuo.training.sft import train", "stages talk through files"),
        ("training.ppo", "import lite_huatuo.cli.main", "imports cli.main (floor 7)"),
        ("jsonl", "from lite_huatuo.records import x\nfrom lite_huatuo.models import gguf", "imports models.gguf"),
        ("verifier.exact", "from lite_huatuo import jsonl", "imports jsonl (floor 1)"),  # same floor, another folder
        ("training.rollout", "from lite_huatuo.verifier import choose", "imports verifier.choose (floor 3)"),
        ("training.rollout", "from lite_huatuo.recipe import Recipe", "recipes stop at floor 4"),
        ("models.value_head", "try:\n    import lite_huatuo.training.rollout\nexcept ImportError: pass", "(floor 3)"),
        ("errors", "import yaml", "standard library only"),
        ("records", "def f():\n    import torch.nn", "standard library only"),
        ("verifier.base", "from . import exact", "relative import"),
        ("training.ppo", "from lite_huatuo.training import nowhere", "is no module"),
        ("training.ppo", "from lite_huatuo.nowhere.at_all import x", "is no module"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, told: str) -> None:
    wrong = broken_floors(module, ast.parse(source))
    assert len(wrong) == 1
    assert told in wrong[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training.rollout", "from lite_huatuo.training.checkpoint import load"),  # same floor, same folder
        (
            "training.ppo",
            "from lite_huatuo import jsonl, __version__\nfrom lite_huatuo.training import rollout, ppo_math",
        ),
        ("records", "from __future__ import annotations\nimport hashlib, os.path"),
        ("training.rollout", "import typing\nif typing.TYPE_CHECKING:\n    from lite_huatuo.recipe import Recipe"),
    ],
)
def test_a_right_import_is_let_pass(module: str, source: str) -> None:
    assert broken_floors(module, ast.parse(source)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training.ppo", "import unsloth"),
        ("training.rollout", "def f():\n    from peft import LoraConfig"),
        ("planning.memory", "import bitsandbytes.functional as F"),
        ("recipe", "import click"),
        ("verifier.api", "import openai"),
    ],
)
def test_a_library_in_the_wrong_room_is_found(module: str, source: str) -> None:
    assert len(broken_libraries(module, ast.parse(source))) == 1


def test_a_module_without_a_floor_and_a_function_too_long_are_found() -> None:
    assert floor("training.some_new_module") is None
    assert floor("models.some_new_module") == 2
    body = "    pass\n" * FUNCTION_LINES
    assert len(too_long(ast.parse(f"def f():\n{body}"))) == 1
    assert too_long(ast.parse(f"def f():\n{body[9:]}")) == []
