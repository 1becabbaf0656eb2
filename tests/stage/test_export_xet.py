"""Pushes and loads by hf_xet, as it is installed by default, through a Xet store on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from huggingface_hub.utils._xet import abort_xet_session

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, hub, merge
from tests import mini_xet
from tests.mini_hub import MiniHub
from tests.stage.test_export_round_trip import make_run

SECRETS = ("hf_secret", mini_xet.READ, mini_xet.WRITE)
# hf_xet would try six times over minutes, and note down what has arrived every 20 seconds.
QUICK = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
    "HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_MAX_COUNT": "1",
    "HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_INTERVAL": "0s",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where hf_xet keeps what it keeps: a log, opened once a process, and what it noted down for each store."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, home: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[MiniHub]:
    """A Hub with a Xet store that this process talks to; in the end no secret was printed, logged or kept."""
    with MiniHub({"hf_secret": ("tester", "write")}, xet=True) as running:
        for name, value in {**QUICK, "HF_TOKEN": "hf_secret", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_XET_CACHE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        abort_xet_session()  # the next one reads its settings anew
        disable_progress_bars()
        yield running
        enable_progress_bars()
        abort_xet_session()
    printed = capfd.readouterr()
    kept = "".join(path.read_text(errors="replace") for path in home.rglob("*") if path.is_file())
    assert "/_xet" in kept, "hf_xet's log names the store"
    assert not [secret for secret in SECRETS if secret in printed.out + printed.err + kept]


@pytest.fixture(scope="module")
def exported(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tiny model, its weights in one file. Do not write into it."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run", toy)
    base = {**yaml.safe_load((run / "recipe.yaml").read_text())["base"], "model": toy["model"]}
    to = run.parent / "model"
    merge.export(
        run / "sft/final/actor", to, base=base, onto="base", dtype="float32", max_shard_size="1GB", logits=False
    )
    return to


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def load(server: MiniHub, cache: Path) -> dict[str, bytes]:
    """Return {path: content} of the pushed model, loaded into an empty cache."""
    folder = Path(snapshot_download("tester/model", cache_dir=cache, endpoint=server.url))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in hub.files(folder)}


def asked(server: MiniHub, method: str, place: str) -> list[str]:
    return [path for did, path in server.log if did == method and place in path]


def test_pushed_by_xet_and_loaded_back_it_is_the_same_to_the_byte(server: MiniHub, model: Path, tmp_path: Path) -> None:
    hub.push(model, "tester/model", tag="v1")
    assert server.xet is not None
    assert asked(server, "POST", "/_xet/v1/xorbs/")
    assert asked(server, "POST", "/_xet/v1/shards")
    assert asked(server, "PUT", "") == asked(server, "POST", "lfs") == [], "nothing went by LFS"
    assert len(server.repos["tester/model"].history()) == 2, "the Hub's own first commit, and one of ours"
    server.log.clear()
    loaded = load(server, tmp_path / "cache")
    assert loaded.pop(".gitattributes")
    assert loaded == content(model)
    large = [name for name, data in loaded.items() if len(data) > server.large]
    assert "model.safetensors" in large
    assert len(asked(server, "GET", "/_xet/v1/reconstructions/")) == len(large)
    assert asked(server, "GET", "/_xet/xorbs/")
    assert asked(server, "GET", "/_lfs/") == []


def test_what_went_by_xet_is_loaded_without_it_too(
    server: MiniHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(model, "tester/model")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    server.log.clear()
    loaded = load(server, tmp_path / "cache")
    assert loaded["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert asked(server, "GET", "/_xet/") == []


@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        ("/_xet/v1/xorbs/", 500, r"http://localhost:\d+ answered 500 Internal Server Error while large files were"),
        ("/_xet/v1/xorbs/", "cut", r"http://localhost:\d+ cannot be reached or answers wrong \(ConnectionError\)"),
        ("/_xet/v1/shards", 500, r"http://localhost:\d+ answered 500 Internal Server Error while large files were"),
        ("/_xet/v1/shards", "cut", r"http://localhost:\d+ cannot be reached or answers wrong \(ConnectionError\)"),
        ("/xet-write-token/", 403, r"http://127.0.0.1:\d+ answered 403 Forbidden while large files were uploaded"),
    ],
)
def test_a_store_that_breaks_publishes_nothing_and_the_next_push_goes_on(
    server: MiniHub, model: Path, tmp_path: Path, where: str, fault: int | str, message: str
) -> None:
    server.faults = [lambda method, path: fault if where in path else None]
    with pytest.raises(ExportError, match=message) as told:
        hub.push(model, "tester/model")
    assert "nothing was published; run the same command again" in str(told.value)
    assert "HF_HUB_DISABLE_XET=1 uploads without Xet" in str(told.value)
    assert set(server.repos["tester/model"].tree("main")) == {".gitattributes"}
    server.faults = []
    server.log.clear()
    hub.push(model, "tester/model")
    assert len(server.repos["tester/model"].history()) == 2
    again = asked(server, "POST", "/_xet/v1/xorbs/")
    assert again == [] if "shards" in where else again, "what had arrived and was noted down is not sent again"
    assert load(server, tmp_path / "cache")["model.safetensors"] == (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("place", ["/reconstructions/", "/_xet/xorbs/"])
def test_a_store_that_breaks_while_a_base_is_loaded_is_told_without_the_signed_part_of_an_address(
    server: MiniHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    hub.push(model, "tester/model")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mini_xet, "SIGNATURE", "?Signature=canary")
    server.faults = [lambda method, path: 500 if place in path else None]
    wanted = r"tester/model: model.safetensors: cannot be fetched from the Hub \(.*500 Internal Server Error"
    with pytest.raises(ExportError, match=wanted) as told:
        base_files.find("tester/model", None)
    assert "canary" not in str(told.value)


@pytest.mark.parametrize("commits", [0, 1])
def test_many_files_are_one_commit_or_none(server: MiniHub, tmp_path: Path, commits: int) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(260):
        (folder / f"model-{number:05}.safetensors").write_bytes(number.to_bytes(2, "big") * 600)
    server.faults = [lambda method, path: 400 if "/commit/" in path and not commits else None]
    if commits:
        hub.push(folder, "tester/model")
    else:
        with pytest.raises(ExportError, match=r"the Hub refused \(400: a fault of the test\); nothing was"):
            hub.push(folder, "tester/model")
    assert len(server.repos["tester/model"].history()) == 1 + commits
    assert len(asked(server, "POST", "/commit/")) == 1


def test_a_file_that_is_gone_is_told_as_such(server: MiniHub, model: Path) -> None:
    def remove(method: str, path: str) -> None:
        if "/preupload/" in path:
            (model / "model.safetensors").unlink()

    server.faults = [remove]
    with pytest.raises(ExportError, match=r"a file could not be read.*\(No such file or directory .*nothing was pub"):
        hub.push(model, "tester/model")


def test_an_error_of_hf_xet_itself_is_told_without_its_text(
    server: MiniHub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(model, "tester/model")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Task error: http://store.example/x?Signature=secret")

    (model / "config.json").write_text("{}")
    monkeypatch.setattr(hub.HfApi, "create_commit", broken)
    with pytest.raises(
        ExportError, match=r"http://store.example cannot be reached or answers wrong \(RuntimeError"
    ) as told:
        hub.push(model, "tester/model", update=True)
    assert "secret" not in str(told.value)
