"""Pushes to a Hub on loopback: one commit or none, and every refusal told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from lite_huatuo.errors import ExportError
from lite_huatuo.export import hub
from tests.mini_hub import MiniHub
from tests.mini_hub_repo import Repo, Tree

TOKENS = {"hf_secret": ("tester", "write"), "hf_reader": ("tester", "read"), "hf_blind": ("tester", "fineGrained")}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniHub]:
    """A Hub that this process's huggingface_hub talks to, with a token that may write."""
    with MiniHub(TOKENS) as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", running.url, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_EXCEPTIONS", (), raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported folder, as far as a push is concerned."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    for number in (1, 2):
        (made / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes([number]) * 5000)
    return made


def refused(folder: Path, message: str, repo: str = "tester/model", **options: object) -> str:
    with pytest.raises(ExportError, match=message) as told:
        hub.push(folder, repo, **options)  # type: ignore[arg-type]
    assert not any(token in str(told.value) for token in TOKENS), "a token is never shown"
    return str(told.value)


def test_a_push_is_one_commit_private_and_whole(server: MiniHub, folder: Path) -> None:
    address = hub.push(folder, "tester/model", tag="v1")
    repo = server.repos["tester/model"]
    assert repo.private
    assert len(repo.history()) == 2, "the Hub's own first commit, and one of ours"
    assert repo.tags == {"v1": repo.branches["main"]}
    assert address.endswith(repo.branches["main"])
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path: data for path, (data, _) in repo.tree("main").items() if path != ".gitattributes"} == wanted


def test_what_a_kill_left_half_written_is_not_published(server: MiniHub, folder: Path) -> None:
    for name in (".README.md.tmp", ".toy-q8_0.gguf.part"):
        (folder / name).write_bytes(b"half")
    hub.push(folder, "tester/model")
    assert not [name for name in server.repos["tester/model"].tree("main") if name.endswith((".tmp", ".part"))]


def test_public_is_asked_for(server: MiniHub, folder: Path) -> None:
    hub.push(folder, "tester/model", private=False)
    assert not server.repos["tester/model"].private


def test_an_existing_repository_is_changed_only_on_demand_and_keeps_no_old_weights(
    server: MiniHub, folder: Path
) -> None:
    hub.push(folder, "tester/model")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "model.safetensors").write_bytes(b"new" * 1000)
    before = server.repos["tester/model"].branches["main"]
    refused(folder, "exists already; replace its files with --update")
    assert server.repos["tester/model"].branches["main"] == before
    hub.push(folder, "tester/model", update=True, tag="v2")
    assert set(server.repos["tester/model"].tree("v2")) == {".gitattributes", "config.json", "model.safetensors"}
    assert len(server.repos["tester/model"].history()) == 3
    (folder / "config.json").write_text("[]")
    refused(folder, "has a tag v2 already", update=True, tag="v2")


def test_a_branch_leaves_main_alone(server: MiniHub, folder: Path) -> None:
    hub.push(folder, "tester/model")
    before = server.repos["tester/model"].branches["main"]
    (folder / "config.json").write_text('{"new": 1}')
    hub.push(folder, "tester/model", update=True, revision="next")
    repo = server.repos["tester/model"]
    assert repo.branches["main"] == before
    assert repo.tree("next")["config.json"][0] == b'{"new": 1}'


def test_a_cut_in_the_middle_publishes_nothing_and_the_next_push_goes_on(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    uploads: list[str] = []

    def cut(method: str, path: str) -> str | None:
        if method == "PUT":
            uploads.append(path)
        return "cut" if method == "PUT" and path != uploads[0] else None

    server.faults = [cut]
    refused(folder, "nothing was published; run the same command again")
    assert len(server.blobs) == 1, "one of two large files had come through"
    assert len(server.repos["tester/model"].history()) == 1
    assert set(server.repos["tester/model"].tree("main")) == {".gitattributes"}
    first = uploads[0]
    server.faults = []
    server.log.clear()
    hub.push(folder, "tester/model")  # an empty repository is no obstacle
    assert [path for method, path in server.log if method == "PUT" and path == first] == []
    assert len(server.repos["tester/model"].history()) == 2


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("/api/whoami-v2", "the Hub answered 500"),
        ("/api/repos/create", "the Hub answered 500"),
        ("/api/models/tester/model/preupload/main", "the Hub answered 500"),
        ("/api/models/tester/model/commit/main", "the Hub answered 500"),
    ],
)
def test_errors_of_the_hub_publish_nothing(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.faults = [lambda method, path: 500 if path == where else None]
    assert "nothing was published" in refused(folder, message)
    repo = server.repos.get("tester/model")
    assert repo is None or set(repo.tree("main")) == {".gitattributes"}


def commits(server: MiniHub) -> int:
    """Return how many commits main has on top of the Hub's own first one."""
    return len(server.repos["tester/model"].history()) - 1


def committed(server: MiniHub) -> bool:
    return any("/commit/" in path for _, path in server.log)


def test_a_commit_whose_answer_gets_lost_is_found(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.faults = [lambda method, path: "lost" if "/commit/" in path else None]
    address = hub.push(folder, "tester/model", tag="v1")
    repo = server.repos["tester/model"]
    assert commits(server) == 1
    assert repo.tags == {"v1": repo.branches["main"]}
    assert address == f"{server.url}/tester/model/commit/{repo.branches['main']}"


def test_where_the_hub_cannot_be_asked_after_a_lost_answer_the_next_run_finds_out(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def gone(method: str, path: str) -> str | int | None:
        if "/commit/" in path:
            return "lost"
        return 500 if committed(server) else None

    server.faults = [gone]
    told = refused(folder, "cannot be asked whether the files are published; run the same command again", tag="v1")
    assert "nothing was published" not in told
    server.faults = []
    server.log.clear()
    notes: list[str] = []
    hub.push(folder, "tester/model", tag="v1", note=notes.append)
    assert notes == ["tester/model: holds these files already"]
    assert not committed(server)
    assert server.repos["tester/model"].tags == {"v1": server.repos["tester/model"].branches["main"]}


@pytest.mark.parametrize("fault", [500, "cut", "lost"])
def test_a_tag_that_fails_is_told_as_such_and_made_by_the_same_command(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: int | str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.faults = [lambda method, path: fault if "/tag/" in path else None]
    told = refused(folder, r"published at http.*, but the tag v1 is missing \(.*run the same command again", tag="v1")
    repo = server.repos["tester/model"]
    assert repo.branches["main"] in told
    assert "nothing was published" not in told
    server.faults = []
    assert hub.push(folder, "tester/model", tag="v1").endswith(repo.branches["main"])
    assert commits(server) == 1
    assert repo.tags == {"v1": repo.branches["main"]}


@pytest.mark.parametrize("update", [False, True])
def test_nothing_is_asked_of_the_hub_after_the_commit_but_the_tag(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch, update: bool
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if update:
        hub.push(folder, "tester/model")
        (folder / "config.json").write_text("[1]")
        server.log.clear()
    server.faults = [lambda method, path: 500 if committed(server) and "/commit/" not in path else None]
    hub.push(folder, "tester/model", update=update)
    assert server.repos["tester/model"].tree("main")["config.json"][0] == (folder / "config.json").read_bytes()


def test_the_same_files_are_pushed_again_without_update_and_without_a_commit(server: MiniHub, folder: Path) -> None:
    hub.push(folder, "tester/model", tag="v1")
    hub.push(folder, "tester/model", tag="v1")
    hub.push(folder, "tester/model", revision="next", tag="v2")
    repo = server.repos["tester/model"]
    assert commits(server) == 1
    assert repo.branches["next"] == repo.tags["v1"] == repo.tags["v2"] == repo.branches["main"]
    repo.commit("main", "old weights", {**repo.tree("main"), "old.safetensors": (b"x", False)}, repo.branches["main"])
    refused(folder, "exists already; replace its files with --update")
    refused(folder, "has a tag v1 already", update=True, tag="v1")
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # of the same size
    refused(folder, "exists already; replace its files with --update", revision="next")


def public_repository(server: MiniHub, tree: Tree) -> Repo:
    repo = server.repos["tester/model"] = Repo("tester/model", private=False)
    if tree:
        repo.commit("main", "theirs", tree, repo.branches["main"])
    return repo


@pytest.mark.parametrize("tree", [{}, {"README.md": (b"hello", False)}], ids=["empty", "with files"])
@pytest.mark.parametrize("folder_is_there", [True, False])
def test_a_public_repository_gets_nothing_that_was_not_meant_to_be_public(
    server: MiniHub, folder: Path, tmp_path: Path, tree: Tree, folder_is_there: bool
) -> None:
    repo = public_repository(server, tree)
    before = repo.branches["main"]
    wanted = "is public, so everyone would see .*nothing was published; give --public if it is meant, or make the"
    if folder_is_there:
        refused(folder, wanted, update=True)
    else:
        with pytest.raises(ExportError, match=wanted):
            hub.check(tmp_path / "none yet", "tester/model", update=True)
    assert [path for method, path in server.log if method != "GET"] == []
    assert repo.branches["main"] == before
    hub.push(folder, "tester/model", private=False, update=True)
    assert "config.json" in repo.tree("main")


def test_a_private_repository_stays_private_and_that_is_said_before_the_upload(server: MiniHub, folder: Path) -> None:
    hub.push(folder, "tester/model")
    (folder / "config.json").write_text("[]")
    notes: list[str] = []
    hub.push(folder, "tester/model", private=False, update=True, note=notes.append)
    assert notes == [
        "tester/model: is private and stays so; its settings page changes that",
        "tester/model: uploading 3 files",
    ]
    assert server.repos["tester/model"].private


def test_a_new_repository_that_comes_out_public_gets_nothing(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def organisation(method: str, path: str) -> None:
        if "tester/model" in server.repos:
            server.repos["tester/model"].private = False

    server.faults = [organisation]
    refused(folder, "is public, so everyone would see")
    assert commits(server) == 0


def test_someone_elses_commit_meanwhile_is_not_overwritten(server: MiniHub, folder: Path) -> None:
    hub.push(folder, "tester/model")

    def meanwhile(method: str, path: str) -> None:
        if "/commit/" in path:
            repo = server.repos["tester/model"]
            repo.commit("main", "someone else's", {"theirs.txt": (b"x", False)}, repo.branches["main"])

    server.faults = [meanwhile]
    (folder / "config.json").write_text("[]")
    refused(folder, "changed by someone else", update=True)
    assert set(server.repos["tester/model"].tree("main")) == {"theirs.txt"}


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("hf_wrong", "tester/model", "does not know this token; set HF_TOKEN"),
        ("hf_reader", "tester/model", "of tester may only read; set HF_TOKEN"),
        ("hf_secret", "stranger/model", "tester is not in stranger; yours: tester"),
        ("hf_secret", "model", "give user/name"),
        ("hf_secret", "tester/bad name", "--push tester/bad name: "),
    ],
)
def test_rights_are_asked_before_anything_is_sent(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, repo: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    refused(folder, message, repo)
    with pytest.raises(ExportError, match=message):
        hub.check(folder, repo)
    assert not [path for method, path in server.log if method != "GET"]


def test_a_token_without_right_is_told(server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_blind")
    server.faults = [lambda method, path: 403 if method == "POST" else None]
    refused(folder, "this token may not write there")


def test_no_token_offline_and_no_network_are_told(
    server: MiniHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    refused(folder, "no Hub token; set HF_TOKEN")
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(folder, "HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    class ConnectError(hub.CLIENT):  # as httpx has it, and httpx2, whichever huggingface_hub uses
        pass

    def unreachable(*_: object) -> None:
        raise ConnectError("no route, Authorization: hf_secret")

    monkeypatch.setattr(hub, "_check_rights", unreachable)
    refused(folder, r"cannot be reached \(ConnectError\); nothing was published")
