"""The Hub is asked once; where it does not answer, the libraries ask it no more and what was downloaded is used."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants

from lite_huatuo import hub_access
from lite_huatuo.errors import BackendError
from tests.mini_hub import MiniHub

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def as_a_user_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No HF_HUB_OFFLINE, an empty cache, and an endpoint where nobody listens."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub_access, "_told", {})


def test_a_hub_that_answers_is_asked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with MiniHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert hub_access.failure() is None
        assert hub_access.failure() is None
        assert [method for method, _ in hub.log] == ["HEAD"], "once"
    assert constants.HF_HUB_OFFLINE is False


def test_one_that_does_not_answer_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "datasets.config", datasets)
    told = hub_access.failure()
    assert told is not None
    assert told.startswith(f"{NOBODY} does not answer: ")
    assert (constants.HF_HUB_OFFLINE, datasets.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"]) == (True, True, "1")
    assert hub_access.failure() == told
    with pytest.raises(
        BackendError, match=r"^base\.model: org/name: cannot be loaded: no such folder .*does not answer"
    ):
        hub_access.require("org/name", "base.model")


def test_an_endpoint_that_is_no_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://[not-an-address")
    assert str(hub_access.failure()).startswith("http://[not-an-address does not answer: ")


def test_a_name_that_the_hub_does_not_know_is_told_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with MiniHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub, "repo_exists", HfApi(endpoint=hub.url).repo_exists)
        HfApi(endpoint=hub.url, token="hf_test").create_repo("tester/name")
        hub_access.require("tester/name", "base.model")
        with pytest.raises(BackendError, match=r"org/nme: cannot be loaded: .* none on the Hub that you may see"):
            hub_access.require("org/nme", "base.model")
        hub.faults.append(lambda method, path: 503)
        hub_access.require("org/nme", "base.model")  # it cannot tell: whoever loads it will


def test_what_was_downloaded_before_is_taken(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    with pytest.raises(BackendError):
        hub_access.require("org/name", "base.model")
    (snapshot / "config.json").write_text("{}")
    hub_access.require("org/name", "base.model")


@pytest.mark.parametrize("name", ["a/b/c", "\0/a", "org/na me"])
def test_what_is_no_hub_id_is_told_without_asking(name: str) -> None:
    with pytest.raises(BackendError, match=r"no such folder.*, and no Hub id"):
        hub_access.require(name, "verifier.model")
    assert constants.HF_HUB_OFFLINE is False
