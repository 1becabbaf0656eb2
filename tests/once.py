"""What is made once in a test run, however many processes it has (`-n`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name` that `make` has filled: here, or before in another process of this test run.

    The folder is not there when `make` begins. All processes read it, so none may write into it afterwards.
    """
    base = factory.getbasetemp()
    # pytest-xdist gives each of its processes a folder in the folder of the whole run
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)
    folder, made = shared / name, shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a process left that failed to make it
            make(folder)
            made.touch()
    return folder
