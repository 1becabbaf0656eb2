"""`verifier train` goes on after a kill and a signal with the same numbers, and with nobody else's checkpoint."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lite_huatuo import jsonl, lock
from lite_huatuo.errors import CheckpointError
from lite_huatuo.stopping import Interrupted, Stop
from lite_huatuo.training import verifier_train
from lite_huatuo.training.progress import Progress, Quiet
from lite_huatuo.training.verifier_checkpoint import Checkpoints
from lite_huatuo.verifier import acceptance
from lite_huatuo.verifier.adapter import AdapterVerifier
from tests.cli.conftest import run  # noqa: F401  (a fixture)
from tests.damage import cut
from tests.stage import test_verifier_adapter
from tests.stage.killing import At, KillAt, Killed

IDENTITY = {"judged replies": "0123", "epochs": 1}


def train(
    toy: dict[str, str], folder: Path | None, progress: Progress, stop: Stop | None = None, **identity: Any
) -> AdapterVerifier:
    checkpoints = Checkpoints(folder, {**IDENTITY, **identity}) if folder else None
    return test_verifier_adapter.train(toy, "head", 1, progress=progress, checkpoints=checkpoints, stop=stop)[0]


@pytest.fixture(scope="module")
def whole(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verifier that was trained in one go."""
    folder = tmp_path_factory.mktemp("whole")
    train(toy, None, Quiet()).save(folder)
    return folder


def assert_same(verifier: AdapterVerifier, whole: Path, folder: Path) -> None:
    verifier.save(folder)
    for name in ("adapter_model.safetensors", "head.safetensors"):
        found, wanted = load_file(folder / name), load_file(whole / name)
        assert found.keys() == wanted.keys()
        assert all(found[key].equal(wanted[key]) for key in wanted), name
    assert (folder / "verifier.json").read_text() == (whole / "verifier.json").read_text()


def test_killed_it_goes_on_with_the_same_numbers(
    toy: dict[str, str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_train, "EVERY", 3)
    for step in (5, 8):
        with pytest.raises(Killed):
            train(toy, tmp_path / "work", KillAt("train verifier", step))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["step-000006"]
    assert_same(train(toy, tmp_path / "work", Quiet()), whole, tmp_path / "result")


def test_a_signal_leaves_a_checkpoint(toy: dict[str, str], whole: Path, tmp_path: Path) -> None:
    stop = Stop()
    with pytest.raises(Interrupted):
        train(toy, tmp_path / "work", At("train verifier", 4, lambda: stop.handle(signal.SIGTERM, None)), stop)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["step-000004"]
    assert_same(train(toy, tmp_path / "work", Quiet()), whole, tmp_path / "result")


def test_other_settings_and_damage_are_refused(toy: dict[str, str], tmp_path: Path) -> None:
    train(toy, tmp_path / "work", Quiet())
    with pytest.raises(CheckpointError, match="begun with other epochs; give the same to go on, or delete"):
        train(toy, tmp_path / "work", Quiet(), epochs=2)
    cut(next((tmp_path / "work").glob("step-*")) / "head.safetensors")
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        train(toy, tmp_path / "work", Quiet())


def test_a_folder_that_another_process_made_meanwhile_is_told(
    run: Callable[..., tuple[int, str, str]],  # noqa: F811
    toy: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the base was loaded another process trained to the same folder to its end."""
    to, locked = tmp_path / "judge", lock.locked

    @contextmanager
    def late(folder: Path, work: str) -> Iterator[None]:
        with locked(folder, work):
            to.mkdir()
            (to / "README.md").write_text("another's")
            yield

    jsonl.write(tmp_path / "judged.jsonl", [vars(row) for row in test_verifier_adapter.judged(120)])
    monkeypatch.setattr(lock, "locked", late)
    monkeypatch.setattr(verifier_train, "train", lambda *_, **__: pytest.fail("the folder is taken"))
    words = ["--recipe", "demo", "--set", f"base.model={toy['model']}", "--judged", str(tmp_path / "judged.jsonl")]
    code, _, err = run("verifier", "train", *words, "--to", str(to))
    assert (code, f"error: {to}: already exists; give a new folder" in err) == (1, True), err
    assert [path.read_text() for path in to.iterdir()] == ["another's"]


def test_the_command_goes_on_where_it_was_and_leaves_its_result_only(
    run: Callable[..., tuple[int, str, str]],  # noqa: F811
    toy: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{**vars(row), "label": row.label} for row in test_verifier_adapter.judged(120)]
    jsonl.write(tmp_path / "judged.jsonl", rows)
    words = ["verifier", "train", "--recipe", "demo", "--set", f"base.model={toy['model']}", "--set", "adapter.rank=4"]
    words += ["--judged", str(tmp_path / "judged.jsonl"), "--to", str(tmp_path / "judge"), "--epochs", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(acceptance, "judge", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run(*words)[0] == 143
    code, _, err = run(*words, "--set", "base.double_quantization=false")
    assert (code, "was begun with other base" in err) == (1, True), err
    assert not (tmp_path / "judge").exists()
    monkeypatch.setattr(verifier_train, "_backward", lambda *_: pytest.fail("all steps were done"))
    code, out, err = run(*words)
    assert code == 0, err
    assert "test part" in out
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == [
        "judge",
        "judged.jsonl",
    ]
    assert json.loads((tmp_path / "judge" / "verifier.json").read_text())["mode"] == "head"
