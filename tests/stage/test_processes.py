"""Several processes over gloo: the run of one process, by ddp and fsdp2, from the start and from another's checkpoints,
and what is left when one of them is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from tests import scripted_teacher
from tests.scripted_server import ScriptedServer
from tests.stage.comparing import rows

WEIGHTS = {
    "sft": ("actor/adapter_model",),
    "ppo": ("actor/adapter_model", "critic/adapter_model", "value_head"),
}
# means over microbatches, which are cut otherwise
UNLIKE = {"sft/epoch", "sft/eval_loss", "sft/entropy", "sft/token_accuracy"}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ScriptedServer, Path]]:
    """A judge behind an endpoint, and its profile."""
    with ScriptedServer(scripted_teacher.reply) as server:
        profile = tmp_path_factory.mktemp("judge") / "judge.yaml"
        shipped = Path(recipes.__file__).parent / "data" / "profiles" / "local.yaml"
        profile.write_text(
            yaml.safe_dump({**yaml.safe_load(shipped.read_text()), "name": "judge", "base_url": server.url})
        )
        yield server, profile


@pytest.fixture(scope="module")
def tree(short_recipe: Recipe, judge: tuple[ScriptedServer, Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A recipe whose SFT teaches the form, so that rewards and not rounding move the critic; nothing divides evenly."""
    made = short_recipe.model_dump()
    made["data"]["sft_limit"] = 200
    made["sft"].update(batch_size=15, microbatch_size=3, epochs=2.0, save_every=8, eval_every=20)
    made["ppo"].update(total_episodes=44, selection_problems=5, save_every=2, sample_every=1)
    made["ppo"]["rollout"]["episodes"] = 11
    made["ppo"]["minibatches"] = 1
    made["verifier"].update(kind="api", profile=str(judge[1]), accept_at=0.0)
    return made


def recipe_file(tree: dict, folder: Path) -> Path:
    """Write the recipe, with a store for verdicts beside it."""
    verifier = {**tree["verifier"], "store": str(folder / "requests.sqlite")}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tree, "verifier": verifier}))
    return path


@pytest.fixture(scope="module")
def alone(tree: dict, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run of one process, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("alone")
    recipe = recipes.load(str(recipe_file(tree, folder)))
    run = RunDir.create(folder / "run", recipe.model_dump())
    sft.train(recipe, run)
    ppo.train(recipe, run)
    return run


def start(recipe: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    command = ["train", "--recipe", str(recipe), "--run", str(run), "--threads", "1", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "lite_huatuo", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def together(count: int, strategy: str) -> list[str]:
    return ["--set", f"launch.processes={count}", "--set", f"launch.strategy={strategy}"]


def before_ppo(run: RunDir, folder: Path) -> Path:
    """Copy a run as it was before PPO; its store is the one beside the copy."""
    shutil.copytree(run.path, folder)
    for left in (folder / "ppo").iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    for name in ("report.json", "heldout.ppo.jsonl"):
        (folder / "eval" / name).unlink()
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace(str(run.path.parent), str(folder.parent)))
    return folder


@contextlib.contextmanager
def no_end(server: ScriptedServer, folder: Path) -> Iterator[None]:
    """While the block runs, have the judge be silent once update 3 of the 4 of a run is logged: whatever keeps this
    test waiting, the run is not over at the block's end."""
    over = threading.Event()

    def reply(request: dict) -> str:
        if updates(folder) >= 3:
            over.wait()
        return scripted_teacher.reply(request)

    server.reply = reply
    try:
        yield
    finally:
        over.set()
        server.reply = scripted_teacher.reply


def updates(folder: Path) -> int:
    """Return how many updates of a run, which may go on, are logged; -1 before the SFT policy is."""
    metrics = folder / "ppo" / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") - 1 if metrics.exists() else -1


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


def gone_on(recipe: Path, folder: Path) -> RunDir:
    """Finish a run's PPO in this process."""
    loaded = recipes.load(str(recipe))
    run = RunDir.resume(folder, loaded.model_dump())
    ppo.train(loaded, run)
    return run


def assert_alike(one: RunDir, other: RunDir) -> None:
    """The same run, but for rounding: weights, figures, and to the letter what was said and judged."""
    for stage, names in WEIGHTS.items():
        for name in names:
            left, right = (load_file(run.stage(stage) / "final" / f"{name}.safetensors") for run in (one, other))
            assert left.keys() == right.keys()
            for key in left:
                gap = (left[key] - right[key]).abs().max().item()
                assert gap <= 1e-4, f"{stage} {name}: {key} differs by {gap}"
        first, second = (rows(run.stage(stage) / "metrics.jsonl") for run in (one, other))
        assert len(first) == len(second)  # written once
        for left, right in zip(first, second, strict=True):
            assert left.keys() == right.keys()
            for key in left.keys() - UNLIKE:
                assert left[key] == pytest.approx(right[key], rel=1e-4, abs=2e-5), (stage, left.get("update"), key)
    for name in ("eval/heldout.base.jsonl", "eval/heldout.sft.jsonl", "eval/heldout.ppo.jsonl", "ppo/samples.jsonl"):
        told = [[(row["id"], row["reply"], row["score"]) for row in rows(run.path / name)] for run in (one, other)]
        assert sorted(told[0]) == sorted(told[1]) if name.startswith("eval") else told[0] == told[1], name


def test_two_processes_do_what_one_does(
    tree: dict, alone: RunDir, judge: tuple[ScriptedServer, Path], tmp_path: Path
) -> None:
    server, _ = judge
    before = len(server.requests)
    out = finish(start(recipe_file(tree, tmp_path), tmp_path / "run", *together(2, "ddp")))
    assert out.count("Held-out problems") == 1  # one process speaks
    joint = RunDir.open(tmp_path / "run")
    assert_alike(alone, joint)
    events = [row["event"] for _, row in jsonl.iter_rows(joint.path / "events.jsonl")]
    assert events.count("created") == events.count("ppo started") == events.count("ppo finished") == 1
    asked = [str(request["messages"]) for request in server.requests[before:]]
    assert len(asked) == len(set(asked)) > 400  # the suite and the replies; none is paid for twice
    assert [path.name for path in tmp_path.glob("*.sqlite")] == ["requests.sqlite"]


def test_three_processes_with_a_sharded_base_go_on_from_the_checkpoints_of_one(
    tree: dict, alone: RunDir, tmp_path: Path
) -> None:
    file, folder = recipe_file(tree, tmp_path), before_ppo(alone, tmp_path / "run")
    shutil.rmtree(folder / "sft" / "final")
    (folder / "eval" / "heldout.sft.jsonl").unlink()
    newest = max(
        (folder / "sft" / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )
    shutil.rmtree(newest)
    finish(start(file, folder, "--resume", *together(3, "fsdp2")))
    assert_alike(alone, RunDir.open(folder))


def test_when_one_process_is_killed_all_end_and_another_number_goes_on(
    tree: dict, alone: RunDir, judge: tuple[ScriptedServer, Path], tmp_path: Path
) -> None:
    file, folder = recipe_file(tree, tmp_path), tmp_path / "run"
    with no_end(judge[0], folder):
        process = start(file, folder, *together(2, "ddp"))
        while not (folder / "ppo" / "checkpoints" / "update-000002").exists():
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
        victim = next(p for p in workers if p.environ().get("RANK") == "1")
        os.kill(victim.pid, signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "process 1 of 2 was ended by SIGKILL" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=60)[1]  # none is left
    assert_alike(alone, gone_on(file, folder))


def test_a_signal_to_the_one_that_started_them_leaves_a_checkpoint_of_the_last_whole_update(
    tree: dict, alone: RunDir, judge: tuple[ScriptedServer, Path], tmp_path: Path
) -> None:
    tree = {**tree, "ppo": {**tree["ppo"], "save_every": 1000}}
    file, folder = recipe_file(tree, tmp_path), before_ppo(alone, tmp_path / "run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipes.load(str(file)).model_dump()))
    with no_end(judge[0], folder):
        process = start(file, folder, "--resume", *together(2, "ddp"))
        while updates(folder) < 1:
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err[-3000:]
    assert err.count("interrupted; go on with: lite-huatuo train") == 1
    assert "Traceback" not in err
    saved = [path.name for path in (folder / "ppo" / "checkpoints").glob("update-*")]
    assert saved == [f"update-{updates(folder):06d}"]
    assert_alike(alone, gone_on(file, folder))
