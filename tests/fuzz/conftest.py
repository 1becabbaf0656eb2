"""The coverage-guided fuzzer is in no extra: without it its tests are left out, and the run says so."""

from __future__ import annotations

import importlib.util

import pytest

LEFT_OUT = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the fuzzer can do where it is not installed, of what was asked for."""
    if importlib.util.find_spec("atheris") is not None:
        return
    left = [item for item in items if item.get_closest_marker("coverage_guided")]
    config.stash[LEFT_OUT] = len(left)
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if not item.get_closest_marker("coverage_guided")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say so where such a test was asked for."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"atheris is not installed: {count} coverage-guided fuzz tests were left out")
