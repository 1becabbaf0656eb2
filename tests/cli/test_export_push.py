"""`export --push` as a user meets it, with a Hub on loopback; no model is trained for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from lite_huatuo.export import hub
from tests.cli import test_export as exports
from tests.mini_hub import MiniHub
from tests.mini_hub_repo import Repo


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniHub]:
    """A Hub on which tester may write."""
    with MiniHub({"hf_secret": ("tester", "write"), "hf_reader": ("tester", "read")}) as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield running


@pytest.fixture(scope="module")
def run_folder(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stage 1 is finished, with a random adapter."""
    return exports.make_run(tmp_path_factory.mktemp("runs") / "toy", toy)


def test_a_folder_that_is_another_export_is_not_pushed(run, run_folder: Path, tmp_path: Path, server: MiniHub) -> None:
    assert run("export", run_folder, "--to", tmp_path / "m", "--tensors-only")[0] == 0
    for words in (["--onto", "trained"], ["--gguf", "q8_0"]):
        code, _, err = run("export", run_folder, "--to", tmp_path / "m", *words, "--push", "tester/model")
        assert code == 1
        assert "already exists and is another export" in err
    assert server.repos == {}


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("", "tester/model", "no Hub token; set HF_TOKEN"),
        ("hf_reader", "tester/model", "of tester may only read"),
        ("hf_secret", "model", "--push model: give user/name"),
        ("hf_secret", "tester/bad name", "--push tester/bad name: "),
        ("hf_secret", "tester/there", "tester/there: exists already; replace its files with --update"),
        ("hf_secret", "tester/public", "tester/public: is public"),
    ],
)
def test_what_the_hub_would_refuse_is_told_before_the_merge(
    run,
    run_folder: Path,
    tmp_path: Path,
    server: MiniHub,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    repo: str,
    message: str,
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: token)
    server.repos["tester/public"] = Repo("tester/public", private=False)
    there = server.repos["tester/there"] = Repo("tester/there", private=True)
    there.commit("main", "theirs", {"README.md": (b"hello", False)}, there.branches["main"])
    code, _, err = run("export", run_folder, "--to", tmp_path / "m", "--tensors-only", "--push", repo)
    assert (code, message in err) == (1, True), err
    assert list(tmp_path.iterdir()) == []
    assert [path for method, path in server.log if method != "GET"] == []


def test_exported_then_evaluated_then_pushed_the_card_tells_name_and_figures(
    run, run_folder: Path, tmp_path: Path, server: MiniHub
) -> None:
    mine = Path(shutil.copytree(run_folder, tmp_path / "run"))
    words = ("export", mine, "--to", tmp_path / "m", "--tensors-only")
    assert run(*words)[0] == 0
    assert "Not evaluated." in (tmp_path / "m" / "README.md").read_text()
    (mine / "eval" / "sft").mkdir()
    found = {"title": "MedQA", "accuracy": 0.6, "low": 0.5, "high": 0.7, "questions": 100, "rule": "strict"}
    (mine / "eval" / "sft" / "report.json").write_text(json.dumps({"medqa": found}))
    code, out, err = run(*words, "--push", "tester/doctor", "--json")
    assert code == 0, err
    tree = server.repos["tester/doctor"].tree("main")
    card = tree["README.md"][0].decode()
    assert 'from_pretrained("tester/doctor")' in card
    assert "vllm serve tester/doctor" in card
    assert "MedQA" in card
    assert "MODEL" not in card
    assert "Not evaluated." not in card
    figures = json.loads(out)
    assert json.loads(tree["export.json"][0]) == {key: figures[key] for key in figures if key != "commit"}
    code, again, err = run(*words, "--push", "tester/doctor", "--tag", "v1", "--json")
    assert code == 0, err
    assert json.loads(again)["commit"] == figures["commit"], "the same files: no second commit, and no --update"
    assert "v1" in server.repos["tester/doctor"].tags

    edited = card.replace("# toy", "# My toy")
    (tmp_path / "m" / "README.md").write_text(edited)
    code, _, err = run(*words, "--push", "tester/second")
    assert code == 0, err
    assert "README.md: was edited since the export; it is kept as it is" in err
    assert server.repos["tester/second"].tree("main")["README.md"][0].decode() == edited


@pytest.mark.parametrize(
    ("words", "file"),
    [(["--tensors-only", "--gguf", "q8_0"], "*.safetensors"), ([], "toy-q8_0.gguf"), (["--adapter"], "*.safetensors")],
)
def test_a_finished_folder_is_looked_at_before_it_is_pushed(
    run, run_folder: Path, tmp_path: Path, server: MiniHub, words: list[str], file: str
) -> None:
    words = words or ["--tensors-only", "--gguf", "q8_0"]
    command = ("export", run_folder, "--to", tmp_path / "m", *words)
    assert run(*command)[0] == 0
    (path,) = (tmp_path / "m").glob(file)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes(100))
    code, _, err = run(*command, "--push", "tester/model")
    assert code == 1
    assert f"{path}: was changed or damaged since the export; export again into a new folder" in err
    path.unlink()
    code, _, err = run(*command, "--push", "tester/model")
    assert code == 1
    assert f"{path}: is missing; export again into a new folder" in err
    path.write_bytes(whole)
    other = path.with_name(f"other{path.suffix}")
    other.write_bytes(whole)
    code, _, err = run(*command, "--push", "tester/model")
    assert code == 1
    assert f"{other}: has no checksum in export.json; move it away, or export again" in err
    assert server.repos == {}
    other.unlink()
    code, _, err = run(*command, "--push", "tester/model")
    assert code == 0, err
