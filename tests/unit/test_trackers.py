"""Warnings as trackio's alerts, against a stand-in with the real one's signature: in trackio 0.43 that is `alert(title,
text=None, level=AlertLevel.WARN, webhook_url=None)`, which calls `level.value` and needs a run that was begun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from lite_huatuo.training.trackers import Log

STAND_IN = """
from enum import Enum

class AlertLevel(str, Enum):
    INFO, WARN, ERROR = "info", "warn", "error"

begun, alerts, rows = [], [], []

class Run:
    def log(self, values, step=None): rows.append((step, values))
    def finish(self): begun.clear()

def init(project, **more):
    begun.append(project)
    return Run()

def alert(title, text=None, level=AlertLevel.WARN, webhook_url=None):
    if not begun:
        raise RuntimeError("Call trackio.init() before trackio.alert().")
    print(title)
    alerts.append((title, text, level.value))
"""


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package named trackio, installed as far as importlib can tell."""
    (tmp_path / "trackio-0.43.0.dist-info").mkdir()
    told = "Metadata-Version: 2.1\nName: trackio\nVersion: 0.43.0\n"
    (tmp_path / "trackio-0.43.0.dist-info" / "METADATA").write_text(told)
    package = tmp_path / "trackio"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    # accelerate looked for trackers when it was imported, by another test maybe
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, LoggerType.TRACKIO])
    yield package
    sys.modules.pop("trackio", None)


def test_warnings_are_trackios_alerts(trackio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(["trackio"], tmp_path)
    log.write({"score/mean": 0.5, "update": 3}, 3)
    log.alert("watch/gap, update 3", "the judges part")
    log.alert("watch/gap, update 4", "the judges part", ends=True)
    import trackio as standing

    assert standing.rows == [(3, {"score/mean": 0.5})]
    assert standing.alerts == [("watch/gap, update 3", "the judges part", "warn"),
                               ("watch/gap, update 4", "the judges part", "error")]  # fmt: skip
    log.close()
    assert capsys.readouterr().out == ""


def test_a_trackio_without_alerts_shows_none(trackio: Path, tmp_path: Path) -> None:
    (trackio / "__init__.py").write_text(STAND_IN.replace("def alert(", "def no_alert("))
    Log(["trackio"], tmp_path).alert("title", "text")


def test_other_trackers_and_none_have_no_alerts(tmp_path: Path) -> None:
    Log([], tmp_path).alert("title", "text")
    assert "trackio" not in sys.modules
