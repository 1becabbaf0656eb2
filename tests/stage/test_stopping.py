"""Ctrl-C and SIGTERM: a checkpoint, the right exit code, a line how to go on, and the same run in the end; and one
process at a time in a run folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lite_huatuo import jsonl, lock, stopping
from lite_huatuo.errors import CheckpointError
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.stopping import Interrupted, Stop
from lite_huatuo.training import decoding, ppo, ppo_update, sft
from tests import tiny
from tests.stage.comparing import assert_same_run
from tests.stage.killing import At, after_sft


@pytest.fixture(scope="module")
def sparse(short_recipe: Recipe) -> Recipe:
    """The short recipe without checkpoints in between: what there is, a signal has left."""
    return short_recipe.model_copy(
        update={
            "sft": short_recipe.sft.model_copy(update={"save_every": 1000}),
            "ppo": short_recipe.ppo.model_copy(update={"save_every": 1000}),
        }
    )


@pytest.fixture(scope="module")
def whole(sparse: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return tiny.trained(sparse, tmp_path_factory.mktemp("whole") / "run")


def test_sft_stops_after_a_step_with_a_checkpoint(whole: RunDir, sparse: Recipe, tmp_path: Path) -> None:
    run, stop = RunDir.create(tmp_path / "run", sparse.model_dump()), Stop()
    with pytest.raises(Interrupted) as told:
        sft.train(sparse, run, At("train sft", 5, lambda: stop.handle(signal.SIGTERM, None)), stop=stop)
    assert told.value.number == signal.SIGTERM
    assert [path.name for path in (run.stage("sft") / "checkpoints").glob("checkpoint-*")] == ["checkpoint-5"]
    sft.train(sparse, run)
    assert_same_run(whole, run, ("sft",))


@pytest.mark.parametrize("place", ["rollout", "learning"])
def test_ppo_saves_the_last_whole_update(
    whole: RunDir, sparse: Recipe, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stop, calls = after_sft(whole, sparse, tmp_path / "run"), Stop(), []
    module, name = (decoding, "decode") if place == "rollout" else (ppo_update.Learner, "step")
    real = getattr(module, name)

    def signalled(*words: object, **named: object) -> object:
        calls.append(1)
        if named.get("temperature", 1) and len(calls) >= 6 and not stop.signal:
            stop.handle(signal.SIGINT, None)  # in a rollout it ends the update here, in learning it waits
        return real(*words, **named)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, signalled)
        with pytest.raises(Interrupted):
            ppo.train(sparse, run, stop=stop)
    saved = [path.name for path in (run.stage("ppo") / "checkpoints").glob("update-*")]
    assert len(saved) == 1
    logged = [line for line in (run.stage("ppo") / "metrics.jsonl").read_text().split("\n") if line]
    assert len(logged) == 1 + int(saved[0][-6:])  # with the SFT policy's
    ppo.train(sparse, run)
    assert_same_run(whole, run)


def test_a_second_signal_does_not_wait() -> None:
    stop = Stop()
    with stop.held():
        stop.handle(signal.SIGTERM, None)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(Interrupted):
            stop.handle(signal.SIGINT, None)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.on_signals() as stop, pytest.raises(Interrupted) as told:
        signal.raise_signal(signal.SIGTERM)
    assert (told.value.number, stop.signal) == (signal.SIGTERM, signal.SIGTERM)
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def start(recipe: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lite_huatuo", "train", "--recipe", str(recipe), "--run", str(folder)]
    return subprocess.Popen([*command, "--threads", "1", *words], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on_and_holds_its_folder(
    whole: RunDir, sparse: Recipe, tmp_path: Path, number: int, code: int
) -> None:
    longer = sparse.model_copy(update={"ppo": sparse.ppo.model_copy(update={"total_episodes": 8 * 30})})
    file = tmp_path / "longer.yaml"
    file.write_text(yaml.safe_dump(longer.model_dump()))
    folder = after_sft(whole, longer, tmp_path / "run").path
    metrics = folder / "ppo" / "metrics.jsonl"
    process = start(file, folder, "--resume")
    while not metrics.exists() or len(metrics.read_text().split("\n")) < 4:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    with (
        pytest.raises(CheckpointError, match=rf"in use by train, process {process.pid} on .*, since "),
        lock.locked(folder, "test"),
    ):
        pass
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code, err
    assert f"go on with: lite-huatuo train --recipe {file} --run {folder} --threads 1 --resume\n" in err
    assert "Traceback" not in err
    assert len(list((folder / "ppo" / "checkpoints").glob("update-*"))) == 1
    run = RunDir.open(folder)
    with lock.locked(folder, "test"):  # it was given back
        ppo.train(longer, run)
    assert [row["update"] for _, row in jsonl.iter_rows(metrics)] == list(range(31))


def test_the_lock_of_a_process_that_was_killed_is_nobodys(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lite_huatuo import lock\n"
        "with lock.locked(Path(sys.argv[1]), 'train'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match="in use"), lock.locked(tmp_path / "run", "eval"):
        pass
    process.kill()
    process.wait()
    with lock.locked(tmp_path / "run", "eval"):
        pass
