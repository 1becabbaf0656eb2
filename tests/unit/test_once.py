"""What the processes of one test run share is made by one of them, and whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.once import made_once


def factory(base: Path) -> Any:
    """Return what gives this folder as a process's own."""
    base.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(getbasetemp=lambda: base)


def test_processes_of_one_run_share_what_one_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    made: list[Path] = []

    def slowly(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()
        time.sleep(0.05)
        (folder / "last").touch()

    def ask(worker: str) -> None:
        folder = made_once(factory(tmp_path / worker), "thing", slowly)
        found.append((folder, (folder / "last").exists()))

    found: list[tuple[Path, bool]] = []
    threads = [threading.Thread(target=ask, args=(f"popen-gw{number % 2}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == [(made[0], True)] * 4
    assert made[0].is_relative_to(tmp_path)


def test_one_process_keeps_to_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it are the folders of other test runs."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    for name in ("pytest-1", "pytest-2"):
        assert made_once(factory(tmp_path / name), "thing", Path.mkdir).is_relative_to(tmp_path / name)


def test_what_was_left_half_made_is_made_again(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        made_once(factory(tmp_path), "thing", fails)
    folder = made_once(factory(tmp_path), "thing", Path.mkdir)
    assert list(folder.iterdir()) == []
