"""Whoever deletes a folder sees who works below it. Locks between processes: tests/stage/test_stopping.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lite_huatuo import lock
from lite_huatuo.errors import CheckpointError


def test_who_works_below_a_folder_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluated = run / "eval" / "sft"
    with (
        lock.locked(evaluated, "eval"),
        pytest.raises(CheckpointError, match=rf"{evaluated}: in use by eval, process {os.getpid()} on .*; wait for it"),
    ):
        lock.refuse_if_held_below(run)
    assert (run / "eval" / ".sft.lock").exists(), "a lock that nobody holds is none"
    lock.refuse_if_held_below(run)
    with lock.locked(evaluated, "eval"):  # it was given back
        pass


def test_the_lock_beside_a_folder_is_not_below_it(tmp_path: Path) -> None:
    with lock.locked(tmp_path / "run", "train"), lock.locked(tmp_path / "other" / "eval", "eval"):
        lock.refuse_if_held_below(tmp_path / "run")
        (tmp_path / "run").mkdir()
        lock.refuse_if_held_below(tmp_path / "run")
