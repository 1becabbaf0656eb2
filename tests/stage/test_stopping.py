"""Ctrl-C and SIGTERM: a checkpoint, the right exit code, a line how to go on, and the same run in the end; and one
process at a time in a run folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lite_huatuo import jsonl, lock, stopping
from lite_huatuo.errors import CheckpointError
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import PPO, Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.stopping import Interrupted, Stop
from lite_huatuo.training import decoding, phases, ppo, ppo_update, sft
from lite_huatuo.training.ppo_stage import State
from lite_huatuo.training.progress import Quiet
from lite_huatuo.training.rollout import Rollout
from tests.stage.comparing import assert_same_run
from tests.stage.killing import At, KillAt, Killed, after_sft


@pytest.fixture(scope="module")
def sparse(short_recipe: Recipe) -> Recipe:
    """The short recipe without checkpoints in between: what there is, a signal has left."""
    return short_recipe.model_copy(
        update={
            "sft": short_recipe.sft.model_copy(update={"save_every": 1000}),
            "ppo": short_recipe.ppo.model_copy(update={"save_every": 1000}),
        }
    )


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


def light_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, list[int], list[tuple[int, float, Any]]]:
    """Return a stage of two updates whose parts only draw a number each, what it has logged, and what it has saved: the
    update, the sum of the numbers it has learned from, and the state of torch's generator."""
    logged: list[int] = []
    saved: list[tuple[int, float, Any]] = []
    learned = [0.0]

    def learn(data: Any, *_: object, **__: object) -> dict[str, float]:
        learned[0] += data.values.sum().item() + torch.rand(1).item()
        return {}

    def measured(*_: object) -> Any:
        drawn = torch.rand(2, 3)
        every = dict.fromkeys(("logprobs", "reference", "values", "entropy", "weights"), drawn)
        return Rollout([], torch.zeros(2), torch.ones(2, 3, dtype=torch.bool), **every, trunk=[])

    def save(path: Path, *_: object, **__: object) -> None:
        saved.append((int(path.name[-6:]), learned[0], torch.get_rng_state()))

    names = ("score/mean", "score/form_share", "reference/kl_per_token")
    for module, name, stand_in in (
        (ppo, "_collect", lambda *_: [torch.rand(1)]),
        (ppo, "_measure", measured),
        (ppo, "_judged", lambda stage, data, update: data),
        (ppo.rollout, "scored", lambda whole: whole),
        (ppo.ppo_figures, "figures", lambda *_: dict.fromkeys(names, 0.0)),
        (ppo, "_watch", lambda *_: []),
        (ppo, "_select", lambda stage: {}),
        (ppo.checkpoint, "save", save),
        (ppo.checkpoint, "prune", lambda *_, **__: None),
        (phases, "reset_peak", lambda: None),
        (phases, "peak_mib", lambda: None),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, stand_in)
    settings = PPO(save_every=1000, sample_every=1000)
    settings.rollout.episodes = 2
    nothing = SimpleNamespace(write=lambda *_: None)
    run = SimpleNamespace(
        id="run",
        stage=lambda name: tmp_path / name,
        log=lambda stage, row: logged.append(row["update"]),
        sample=lambda *_: None,
    )
    stage = SimpleNamespace(
        settings=settings, state=State(), updates=2, stop=Stop(), torn=False, saved=None, processes=ALONE, run=run,
        problems=[1, 2, 3], learner=SimpleNamespace(learn=learn, head=None, optimizers=None), shared=None, log=nothing,
        progress=Quiet(),
    )  # fmt: skip
    torch.manual_seed(0)
    return stage, logged, saved


def updates_with_a_signal(stage: Any, place: int) -> tuple[int, bool]:
    """Do the updates; before the line of that number (from 1) the signal comes. Return the lines, and whether it
    ended them."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in (ppo.__file__, stopping.__file__):
            return None
        if event == "line":
            lines += 1
            if lines == place:
                stage.stop.handle(signal.SIGINT, None)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ppo._updates(stage)
    except Interrupted:
        return lines, True
    finally:
        sys.settrace(before)
    return lines, False


def test_a_signal_between_any_two_lines_of_the_updates_loses_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def light() -> tuple[Any, list[int], list[tuple[int, float, Any]]]:
        return light_stage(monkeypatch, tmp_path)

    stage, logged, saved = light()
    stage.settings.save_every = 1
    assert not updates_with_a_signal(stage, 0)[1]
    assert logged == [1, 2]
    whole = {update: (learned, state) for update, learned, state in saved}
    torch.manual_seed(0)
    whole[0] = (0.0, torch.get_rng_state())
    ended = Counter[int]()
    for place in range(1, updates_with_a_signal(light()[0], 0)[0] + 1):
        stage, logged, saved = light()
        assert updates_with_a_signal(stage, place)[1], f"line {place}"
        if logged or saved:
            update, learned, state = saved[-1]
            assert update == len(logged), f"line {place}"
            assert learned == whole[update][0], f"line {place}"
            assert state.equal(whole[update][1]), f"line {place}"
        ended[len(logged)] += 1
    assert set(ended) == {0, 1, 2}
    assert sum(ended.values()) > 100


@pytest.mark.parametrize(("place", "kept"), [("_measure", [1]), ("learn", [])])
def test_a_process_that_loses_another_saves_what_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, kept: list[int]
) -> None:
    stage, logged, saved = light_stage(monkeypatch, tmp_path)
    stage.processes = Processes(0, 2)
    monkeypatch.setattr(ppo.joint, "joined", lambda mine, processes: mine)
    owner = ppo if place == "_measure" else stage.learner
    real = getattr(owner, place)

    def lost(*words: object, **named: object) -> Any:
        if logged:
            raise RuntimeError("gloo: connection closed by peer")
        return real(*words, **named)

    monkeypatch.setattr(owner, place, lost)
    with pytest.raises(RuntimeError, match="gloo"):
        ppo._updates(stage)
    assert logged == [1]
    assert [update for update, _, _ in saved] == kept, "in the midst of learning nothing is whole"


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


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_when_all_is_done_changes_nothing(number: signal.Signals) -> None:
    code = (
        "import os, sys; from lite_huatuo.cli import main; exit = sys.exit\n"
        "def signalled(code): os.kill(os.getpid(), int(sys.argv.pop())); exit(code)\n"
        "sys.exit = signalled; number = sys.argv.pop(); sys.argv += ['recipes', 'list']\n"
        "listed = main.cli.main\n"
        "def listing(**words): listed(**words); sys.argv.append(number)\n"
        "main.cli.main = listing; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(int(number))], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout


def start(recipe: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lite_huatuo", "train", "--recipe", str(recipe), "--run", str(folder)]
    return subprocess.Popen([*command, "--threads", "1", *words], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on_and_holds_its_folder(
    whole: RunDir, sparse: Recipe, tmp_path: Path, number: int, code: int
) -> None:
    # many more updates than are done before the signal comes, however long this test is kept waiting
    longer = sparse.model_copy(update={"ppo": sparse.ppo.model_copy(update={"total_episodes": 8 * 10_000})})
    file = tmp_path / "longer.yaml"
    file.write_text(yaml.safe_dump(longer.model_dump()))
    folder = after_sft(whole, longer, tmp_path / "run").path
    metrics = folder / "ppo" / "metrics.jsonl"
    process = start(file, folder, "--resume")
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    with (
        pytest.raises(CheckpointError, match=rf"in use by train, process {process.pid} on .*, since "),
        lock.locked(folder, "test"),
    ):
        pass
    process.send_signal(number)
    err = process.communicate()[1]
    assert process.returncode == code, err
    assert f"go on with: lite-huatuo train --recipe {file} --run {folder} --threads 1 --resume\n" in err
    assert "Traceback" not in err
    [saved] = (folder / "ppo" / "checkpoints").glob("update-*")
    updates = [row["update"] for _, row in jsonl.iter_rows(metrics)]
    assert updates == list(range(int(saved.name[-6:]) + 1))
    with lock.locked(folder, "test"), pytest.raises(Killed):  # it was given back
        ppo.train(longer, RunDir.open(folder), KillAt("train ppo", len(updates)))
    assert [row["update"] for _, row in jsonl.iter_rows(metrics)] == [*updates, len(updates)]


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
