"""`lite-huatuo rehearse`: a recipe passes, and each fault that once would have stopped a night's run is found.

A fault is planted in the processes that the rehearsal starts: Python imports `sitecustomize` from the path first.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

RECIPE = "qwen7b"
FAST = ("--set", "base.compute_dtype=float32")  # bfloat16 products are slow on most CPUs


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this module's: the twin is made once."""
    return tmp_path_factory.mktemp("rehearsals")


def environ(cache: Path, fault: str | None = None, folder: Path | None = None) -> dict[str, str]:
    """Return the environment of a rehearsal, with a fault planted if there is one."""
    found = {**os.environ, "LITE_HUATUO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    if fault is not None and folder is not None:
        folder.mkdir(exist_ok=True)
        # planted in the server that the commands are forked from, as its first import of our own package ends
        (folder / "sitecustomize.py").write_text(
            "import sys\nif any('forkserver' in word for word in sys.orig_argv):\n" + textwrap.indent(fault, "    ")
        )
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), found.get("PYTHONPATH"))))
    return found


def rehearse(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lite_huatuo", "rehearse", "--recipe", RECIPE, *FAST, *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900)


def test_a_shipped_recipe_survives_and_is_known_afterwards(cache: Path) -> None:
    done = rehearse(environ(cache), "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["survives"]
    names = [step["name"] for step in verdict["steps"]]
    assert names == ["train", "kill", "resume", "resume again", "eval", "export", "reload", "report"]
    assert all(step["seconds"] > 0 and step["wrong"] is None for step in verdict["steps"])
    assert any("medical-o1-reasoning-SFT" in line for line in verdict["stand_ins"])
    assert not list((cache / "rehearsals").iterdir()), "what passed is cleared away"
    noted = [json.loads(path.read_text()) for path in (cache / "rehearsed").iterdir()]
    assert [note["survives"] for note in noted] == [True]


PACKING = """
from lite_huatuo.training import checkpoint
def pack(optimizers):
    tensors, scalars = {}, {}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                place = tensors if hasattr(value, "cpu") else scalars
                place[f"{name}.{index}.{key}"] = value
    return tensors, scalars
checkpoint.pack_optimizers = pack
"""
COLLECTION = """
from lite_huatuo.models import backends
backends.release = lambda: None
"""
CHECKPOINTING = """
from lite_huatuo.training import rollout
from lite_huatuo.models.shared_base import SharedBase
real = rollout.generate
def generate(shared, *args, **more):  # what unsloth does after the first rollout, and nothing that puts it right
    shared._checkpointed = []
    for module in shared.causal.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False
    return real(shared, *args, **more)
rollout.generate = generate
"""
CARDS = """
from lite_huatuo.training import sft
real = sft.trainer_arguments
def arguments(*args, **more):
    made = real(*args, **more)
    made._n_gpu = 2
    return made
sft.trainer_arguments = arguments
"""


@pytest.mark.parametrize(
    ("fault", "step", "said", "setting"),
    [
        (PACKING, "train", "Tensor", "ppo.optimizer: paged_adamw_8bit"),
        (COLLECTION, "train", "still in memory", None),
        (CHECKPOINTING, "train", "ppo.gradient_checkpointing is true", None),
        (CARDS, "train", "optimizer steps|DataParallel", None),  # TRL 1.16 refuses it by itself
    ],
    ids=["optimizer packing", "collection", "checkpointing", "several cards"],
)
def test_a_planted_fault_is_found(
    cache: Path, tmp_path: Path, fault: str, step: str, said: str, setting: str | None
) -> None:
    planted = environ(cache, fault, tmp_path / "fault")
    words = ("--json",) if setting else ("--json", "--no-blame")
    done = rehearse(planted, *words)
    assert done.returncode == 1, done.stderr
    verdict = json.loads(done.stdout)
    assert not verdict["survives"]
    assert verdict["steps"][-1]["name"] == step
    assert re.search(said, verdict["wrong"]), verdict["wrong"]
    assert verdict["setting"] == setting
    assert Path(verdict["folder"]).is_dir(), "logs are kept"


@pytest.mark.slow
def test_a_rehearsal_that_is_killed_ends_like_one_that_is_not(cache: Path) -> None:
    """SIGKILL at ten random moments: nothing goes on behind it, and the next rehearsal passes and clears up."""
    rng = random.Random(5)
    start = time.monotonic()
    assert rehearse(environ(cache)).returncode == 0
    whole = time.monotonic() - start
    command = [sys.executable, "-m", "lite_huatuo", "rehearse", "--recipe", RECIPE, *FAST]
    for moment in sorted(rng.uniform(2, 0.95 * whole) for _ in range(10)):
        process = subprocess.Popen(
            command, env=environ(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        with_it = []
        end = time.monotonic() + moment
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        if process.poll() is None:
            with_it = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(with_it, timeout=30)
        assert not alive, f"after {moment:.1f} s: {[each.cmdline() for each in alive]}"
    done = rehearse(environ(cache), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["survives"]
    assert not list((cache / "rehearsals").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--on", "cuda"), "no CUDA device here"),
        (("--set", "sft.optimiser=adamw"), "did you mean optimizer?"),
        (("--set", "base.model=/nowhere/base"), "no config.json can be found"),
    ],
)
def test_what_cannot_be_rehearsed_is_said_in_a_line(cache: Path, words: tuple[str, ...], said: str) -> None:
    done = rehearse(environ(cache), *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
