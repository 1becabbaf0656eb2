"""A disk that takes no more, and memory that is used up: one line, nothing lost, and the same run in the end."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lite_huatuo import jsonl
from lite_huatuo.cli import troubles
from lite_huatuo.errors import BackendError, CheckpointError
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from tests.stage import data_jobs
from tests.stage.comparing import assert_same_run
from tests.stage.killing import after_sft


def small_files() -> None:
    """Let no file of this process grow beyond 40 kB: an adapter is larger, a line of metrics is not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_disk_that_takes_no_more_costs_nothing(
    whole: RunDir, short_recipe: Recipe, tmp_path: Path, stage: str
) -> None:
    file, folder = tmp_path / "short.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(short_recipe.model_dump()))
    command = [sys.executable, "-m", "lite_huatuo", "train", "--recipe", str(file), "--run", str(folder)]
    if stage == "ppo":
        after_sft(whole, short_recipe, folder)
        command.append("--resume")
    done = subprocess.run(
        [*command, "--threads", "1"], capture_output=True, text=True, timeout=120, preexec_fn=small_files
    )
    assert done.returncode == 1, done.stderr
    error = done.stderr.strip().split("\n")[-1]
    assert error.startswith("error: ")
    assert f"then go on: lite-huatuo train --recipe {file} --run {folder} --threads 1 --resume" in error
    assert "Traceback" not in done.stderr
    last = [row["event"] for _, row in jsonl.iter_rows(folder / "events.jsonl")][-1]
    assert last == "failed"
    run = RunDir.resume(folder, short_recipe.model_dump())
    sft.train(short_recipe, run)
    ppo.train(short_recipe, run)
    assert_same_run(whole, run)


def test_a_full_disk_does_not_hide_that_a_signal_ended_the_run(
    short_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, event = tmp_path / "short.yaml", RunDir.event
    file.write_text(yaml.safe_dump(short_recipe.model_dump()))

    def no_room(run: RunDir, what: str, **details: object) -> None:
        if what == "interrupted":
            raise OSError(errno.ENOSPC, "No space left on device")
        event(run, what, **details)

    monkeypatch.setattr(RunDir, "event", no_room)
    monkeypatch.setattr(sft, "train", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    ended = data_jobs.command("train", "--recipe", file, "--run", tmp_path / "run")
    assert ended.code == 143, ended.err
    assert "interrupted; go on with: " in ended.err


def full(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, "what the system says", "runs/x/metrics.jsonl")

    return fail


def no_room_in_rust() -> None:
    raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")


def no_card_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a page of advice")


def no_memory() -> None:
    raise MemoryError


def no_store() -> None:
    raise RuntimeError("Task error: File reconstruction error: CAS Client Error: https://host/x?Signature=secret (503)")


@pytest.mark.parametrize(
    ("fail", "error", "told"),
    [
        (full(errno.ENOSPC), CheckpointError, "runs/x/metrics.jsonl: the disk is full; make room, then go on: again"),
        (full(errno.EROFS), CheckpointError, "the disk is read-only"),
        (full(errno.EACCES), CheckpointError, "you may not write here"),
        (no_room_in_rust, CheckpointError, "the disk is full"),
        (
            no_card_memory,
            BackendError,
            r"out of memory \(CUDA out of memory. Tried to allocate 2.00 GiB.\); look there$",
        ),
        (
            full(errno.ENOENT),
            CheckpointError,
            "^runs/x/metrics.jsonl: its folder is not there; .* deleted or replaced it$",
        ),
        (no_memory, BackendError, "out of memory; look there$"),
        (
            no_store,
            BackendError,
            "^the Hub's Xet store broke off .* again; .* HF_HUB_DISABLE_XET=1 fetches without Xet$",
        ),
    ],
)
def test_what_the_machine_lacks_is_told(fail: Callable[[], None], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told), troubles.told("again", memory="look there"):
        fail()


def test_what_has_been_said_is_not_said_again() -> None:
    told = "process 1 was killed (out of memory)"
    with pytest.raises(BackendError) as caught, troubles.told("again", memory="look there"):
        raise BackendError(told)
    assert str(caught.value) == told


def test_every_command_tells_it(tmp_path: Path) -> None:
    rows = [{"id": str(n), "question": f"Case {n}: what is it? " * 400, "ground_truth": "flu"} for n in range(20)]
    jsonl.write(tmp_path / "in.jsonl", rows)
    words = ["data", "mix", str(tmp_path / "mixed"), "--rl", str(tmp_path / "in.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "lite_huatuo", *words],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=small_files,
    )
    assert done.returncode == 1
    assert "the file may not grow so large here" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(FileNotFoundError), troubles.told("again", memory="look there"):
        Path("a file that is not there").read_bytes()
    with pytest.raises(ZeroDivisionError), troubles.told("again", memory="look there"):
        raise ZeroDivisionError
