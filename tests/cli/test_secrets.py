"""Keys are never written: everything that data search, train, eval and export leave behind, say and start is searched
for them, on the good paths and on those where an endpoint refuses, breaks or repeats the key.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from huggingface_hub import constants

from lite_huatuo import jsonl
from lite_huatuo.data import client
from tests import scripted_teacher, tiny
from tests.mini_hub import MiniHub
from tests.scripted_server import ScriptedServer
from tests.stage import data_jobs
from tests.teaching import QUICK

MARK = "canary-31415926"  # every secret holds it
SECRETS = {
    "TEACHER_KEY": f"sk-teacher-{MARK}",
    "OPENAI_API_KEY": f"sk-openai-{MARK}",
    "DEEPSEEK_API_KEY": f"sk-deepseek-{MARK}",
    "HF_TOKEN": f"hf_token{MARK}",
    "HUGGING_FACE_HUB_TOKEN": f"hf_other{MARK}",
    "WANDB_API_KEY": f"wandb{MARK}",
    "HTTPS_PROXY": f"http://user:{MARK}@127.0.0.1:9",
    "HTTP_PROXY": f"http://user:{MARK}@127.0.0.1:9",
    "OPENAI_CUSTOM_HEADERS": f"X-Key: {MARK}",
}
Run = Callable[..., tuple[int, str, str]]
STARTED: list[str] = []  # the command lines that this process started


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        STARTED.append(repr(arguments[:2]))


sys.addaudithook(_audit)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    """An empty working folder; in the end nothing in it, in the log or in a command line holds a secret."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # for the Hub's stand-in
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "Teacher", functools.partial(client.Teacher, retries=QUICK, **data_jobs.PATIENCE))
    caplog.set_level(logging.DEBUG)
    STARTED.clear()
    yield tmp_path
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if MARK.encode() in path.read_bytes()] == []
    assert not [path for path in tmp_path.rglob("*") if MARK in path.name]
    assert MARK not in caplog.text
    assert not [line for line in STARTED if MARK in line]


def said(ended: tuple[int, str, str], code: int) -> str:
    """Return what a command printed, without a secret; it ended with this code."""
    assert ended[0] == code, ended
    assert MARK not in ended[1] + ended[2]
    return ended[1] + ended[2]


def search(run: Run, place: Path, server: ScriptedServer, *words: object) -> tuple[int, str, str]:
    """Run `data search` on four problems."""
    data_jobs.write(place / "problems.jsonl", data_jobs.problems(4))
    profile = data_jobs.profile(place, server.url)
    return run("data", "search", "problems.jsonl", "--to", "t.jsonl", "--teacher", profile, "--overwrite", *words)


def test_the_audit_sees_what_is_started() -> None:
    import subprocess

    STARTED.clear()
    subprocess.run(["true", "word"], check=False)
    assert any("word" in line for line in STARTED)


def test_data_search_writes_no_key_though_the_endpoint_repeats_it(run: Run, place: Path) -> None:
    def blab(request: dict[str, Any]) -> str:
        return scripted_teacher.reply(request).replace("clue", f"{SECRETS['TEACHER_KEY']} clue")

    with ScriptedServer(blab) as server:
        said(search(run, place, server), 0)
        assert server.keys == {f"Bearer {SECRETS['TEACHER_KEY']}"}
    assert list(jsonl.iter_rows(place / "t.jsonl"))


@pytest.mark.parametrize("fault", ["401", "500", "cut", "hang", "broken", "not-json", "307"])
def test_data_search_that_fails_writes_no_key(fault: str, run: Run, place: Path) -> None:
    class Blabs(ScriptedServer):
        """Repeats the key it was shown in what it says of an error."""

        async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
            status, lines, answer = await super()._answer(method, path, headers, body)
            return status, lines, answer.replace(b"scripted", headers["authorization"].encode())

    with Blabs(scripted_teacher.reply, faults=lambda request, attempt: fault) as server:
        profile = yaml.safe_load(data_jobs.profile(place, server.url).read_text())
        (place / "hasty.yaml").write_text(yaml.safe_dump({**profile, "timeout": 0.2}))
        data_jobs.write(place / "problems.jsonl", data_jobs.problems(2))
        ended = run("data", "search", "problems.jsonl", "--to", "t.jsonl", "--teacher", "hasty.yaml")
    assert "error:" in said(ended, 1)


class Proxy(ScriptedServer):
    """Refuses what it is to connect to, and repeats the key it was shown."""

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        self.paths[method] += 1
        return 407, [f"reason: {SECRETS['HTTPS_PROXY']}"], f"{headers} {SECRETS['HTTPS_PROXY']}".encode()


@pytest.mark.parametrize("transport", ["DefaultAioHttpClient", "DefaultAsyncHttpxClient"])
@pytest.mark.parametrize("there", [True, False], ids=["refuses", "is not there"])
def test_a_proxy_that_fails_writes_no_key(
    there: bool, transport: str, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name and password in its address are secrets too. Over http none is used: it would see the endpoint's key."""
    monkeypatch.setattr(openai, "DefaultAioHttpClient", getattr(openai, transport))
    data_jobs.write(place / "problems.jsonl", data_jobs.problems(2))
    words = ("data", "search", "problems.jsonl", "--to", "t.jsonl", "--overwrite", "--teacher")
    with Proxy() as proxy, ScriptedServer(scripted_teacher.reply) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, SECRETS["HTTPS_PROXY"].replace(":9", f":{proxy.port}") if there else SECRETS[name])
        monkeypatch.setenv("NO_PROXY", "")
        told = said(run(*words, data_jobs.profile(place, "https://teacher.invalid/v1")), 1)
        assert "https://teacher.invalid/v1" in told
        assert set(proxy.paths) == ({"CONNECT"} if there else set())
        asked = proxy.paths["CONNECT"]
        said(run(*words, data_jobs.profile(place, server.url)), 0)
        assert proxy.paths.total() == asked


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "http://user:{mark}@127.0.0.1:9/v1", "--set", "model=m", "--benchmark", "medqa=mine.jsonl"],
        ["eval", "profile:local", "--set", "base_url=https://{mark}@127.0.0.1:9/v1", "--benchmark", "medqa=mine.jsonl"],
        ["eval", "profile:local", "--set", "base_url=ftp://x:{mark}@h/", "--benchmark", "medqa=mine.jsonl"],
        ["eval", "http://127.0.0.1:9/v1?api_key={mark}", "--set", "model=m", "--benchmark", "medqa=mine.jsonl"],
        [
            "data",
            "search",
            "mine.jsonl",
            "--to",
            "x.jsonl",
            "--teacher",
            "local",
            "--set",
            "base_url=http://a:{mark}@h/",
        ],
        ["data", "search", "mine.jsonl", "--to", "x.jsonl", "--teacher", "local", "--set", "api_key={mark}"],
        ["verifier", "check", "--kind", "api", "--set", "profile=bad.yaml"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(words: list[str], run: Run, place: Path) -> None:
    """In an address or a recipe it would go into files and reports."""
    (place / "mine.jsonl").write_text('{"question": "q", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}\n')
    (place.parent / f"{place.name}-bad.yaml").write_text(
        f"name: x\nmodel: m\nbase_url: https://u:{MARK}@h/v1\nprices: {{input: 1.0, output: 1.0}}\napi_key: {MARK}\n"
    )
    command = [w.format(mark=MARK).replace("bad.yaml", f"../{place.name}-bad.yaml") for w in words]
    told = said(run(*command), 1)
    assert "error:" in told


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniHub]:
    with MiniHub({SECRETS["HF_TOKEN"]: ("tester", "write")}) as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", running.url, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_EXCEPTIONS", (), raising=False)
        yield running


def recipe_of(place: Path, toy: dict[str, str], profile: Path) -> Path:
    """Write the recipe of a short run of both stages whose verifier is asked for over HTTP."""
    tree = tiny.short_recipe(toy)
    tree["sft"].update(epochs=1.0, early_checkpoints=[], eval_every=50)
    tree["ppo"].update(total_episodes=16, critic_warmup_updates=0)
    tree["verifier"] = {"kind": "api", "profile": str(profile), "store": str(place / "verdicts.sqlite")}
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_whole_run_writes_no_key(run: Run, place: Path, toy: dict[str, str], hub: MiniHub) -> None:
    """Both stages with a judge behind HTTP, an evaluation of an endpoint, an export that is pushed."""

    def judge(request: dict[str, Any]) -> str:
        return json.dumps({"correct": True}) if "json_schema" in str(request) else "The answer is A."

    with ScriptedServer(judge) as server:
        profile = data_jobs.profile(place, server.url)
        recipe = recipe_of(place, toy, profile)
        said(run("train", "--recipe", recipe, "--run", "out", "--accept-verifier", "--threads", "1"), 0)
        assert server.keys == {f"Bearer {SECRETS['TEACHER_KEY']}"}
        (place / "mine.jsonl").write_text('{"question": "q", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}\n')
        said(run("eval", f"profile:{profile}", "--benchmark", "medqa=mine.jsonl", "--json"), 0)
    said(run("export", "out", "--to", "model", "--tensors-only", "--push", "tester/model"), 0)
    assert hub.repos["tester/model"].tree("main")
    published = b"".join(data for data, _ in hub.repos["tester/model"].tree("main").values())
    assert MARK.encode() not in published
    hub.faults = [lambda method, path: 500 if "whoami" in path else None]
    told = said(run("export", "out", "--to", "model", "--tensors-only", "--push", "tester/model", "--update"), 1)
    assert "the Hub answered 500" in told
    assert {"recipe.yaml", "environment.json", "events.jsonl"} <= {path.name for path in (place / "out").iterdir()}


@pytest.mark.slow
def test_a_run_whose_judge_refuses_writes_no_key(run: Run, place: Path, toy: dict[str, str]) -> None:
    """PPO does not start with a judge that answers 401 to everything."""
    with ScriptedServer(faults=lambda request, attempt: "401") as server:
        recipe = recipe_of(place, toy, data_jobs.profile(place, server.url))
        told = said(run("train", "--recipe", recipe, "--run", "out", "--threads", "1"), 1)
    assert "TEACHER_KEY" in told


def test_no_key_is_written_where_none_is_set(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY")
    with ScriptedServer() as server:
        assert "no key; set the environment variable TEACHER_KEY" in said(search(run, place, server), 1)
