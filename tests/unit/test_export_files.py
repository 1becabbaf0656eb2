"""Shards: what the streaming writer writes is what the library reads; the layout leaves no tensor out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, plan, shard_writer
from lite_huatuo.export.base_files import Info
from tests.mini_hub import MiniHub
from tests.mini_hub_repo import Repo

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(forms=st.lists(st.tuples(SHAPES, st.sampled_from(TYPES)), min_size=1, max_size=5), step=st.integers(1, 3))
def test_a_streamed_file_is_read_back_by_the_library(tmp_path: Path, forms: list, step: int) -> None:
    tensors = {f"t{i}": torch.randn(shape).to(dtype) for i, (shape, dtype) in enumerate(forms)}
    pieces = [
        piece
        for tensor in tensors.values()
        for piece in (tensor.split(step) if tensor.ndim else [tensor])  # rows, a few at a time
    ]
    path = tmp_path / "x.safetensors"
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    digest = shard_writer.write(path, infos, pieces)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_file(path)
    assert list(found) and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())  # noqa: PT018
    assert base_files.header(path) == infos


@settings(max_examples=100)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    limit=st.integers(1, 4000),
    change=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_tensor_is_planned_once_and_shards_keep_to_the_limit(
    counts: list[int], limit: int, change: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    base: dict[str, dict[str, Info]] = {}
    for shard, count in enumerate(counts):
        base[f"s{shard}"] = {
            f"s{shard}.t{i}": Info((int(torch.randint(1, 900, (), generator=generator)),), torch.float32)
            for i in range(count)
        }
    first = "s0.t0"
    planned = plan.shards(base, {first} if change else set(), {"head": first}, torch.bfloat16, limit)
    names = [name for shard in planned for name in shard.tensors]
    assert sorted(names) == sorted([*(n for tensors in base.values() for n in tensors), *(["head"] if change else [])])
    for shard in planned:
        sizes = [shard_writer.size(made.info) for made in shard.tensors.values()]
        assert sum(sizes) <= limit or len(sizes) == 1
        assert all(made.source in base[shard.base_shard] for made in shard.tensors.values())
    index = plan.index(planned)
    assert (index is None) == (len(planned) == 1)


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("500MiB", 500 * 2**20), ("1.5 KB", 1500), ("7", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert plan.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "5TB", "-1GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match=r"export\.max_shard_size"):
        plan.parse_size(text)


def test_a_base_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ExportError, match="only safetensors weights are read"):
        base_files.find(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        base_files.find(str(tmp_path), None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MiniHub]:
    """A Hub with tester/one, a model in one file, that is asked once; nothing is in the cache."""
    with MiniHub() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        repo = running.repos["tester/one"] = Repo("tester/one", private=False)
        weights = save({"t": torch.zeros(500)})
        repo.commit("main", "weights", {base_files.WEIGHTS: (weights, True)}, repo.branches["main"])
        yield running


def test_a_hub_model_without_an_index_is_one_file(server: MiniHub) -> None:
    assert list(base_files.find("tester/one", None).shards) == [base_files.WEIGHTS]
    server.faults = [lambda method, path: 503 if base_files.INDEX in path else None]
    assert list(base_files.find("tester/one", None).shards) == [base_files.WEIGHTS], "it is in the cache"


def test_a_hub_that_does_not_tell_of_an_index_is_told_as_such(server: MiniHub) -> None:
    server.faults = [lambda method, path: 503 if base_files.INDEX in path else None]
    with pytest.raises(ExportError, match=rf"tester/one: {base_files.INDEX}: cannot be fetched from the Hub \(.*503"):
        base_files.find("tester/one", None)
    assert not [path for _, path in server.log if path.rpartition("/")[2] == base_files.WEIGHTS]


def test_a_hub_model_without_safetensors_is_told_as_such(server: MiniHub) -> None:
    repo = server.repos["tester/one"]
    repo.commit("main", "pickled", {"pytorch_model.bin": (b"x", False)}, repo.branches["main"])
    with pytest.raises(ExportError, match=r"model.safetensors: there is no such file on the Hub; only safetensors are"):
        base_files.find("tester/one", None)


def test_the_signed_part_of_an_address_is_not_told(server: MiniHub) -> None:
    server.faults = [lambda method, path: 500 if path.startswith("/_lfs/") else None]
    with pytest.raises(ExportError, match=r"cannot be fetched from the Hub \(.*500.*/_lfs/") as told:
        base_files.find("tester/one", None)
    assert "Signature" not in str(told.value)
