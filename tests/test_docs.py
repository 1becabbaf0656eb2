"""The docs are true: generated parts are fresh, links lead somewhere, files exist. Their commands: tests/docs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

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
