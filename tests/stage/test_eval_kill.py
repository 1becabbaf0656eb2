"""A student's evaluation that is killed in the middle of a batch: what was written is kept, and not written again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.evaluation import benchmarks, predictions, run
from lite_huatuo.evaluation.targets import LocalWriter, Sampling
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.records import ExamQuestion
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import decoding
from lite_huatuo.training.progress import Quiet

QUESTIONS = [
    ExamQuestion(f"q{n}", f"{'Long ' * (3 * n % 11)}sign {n}?", {"A": "rest", "B": "salt"}, "B", "salt")
    for n in range(9)
]
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=40, seed=3)
WARM = Sampling(temperature=1.6, top_p=0.9, max_tokens=40, seed=3)


class Killed(BaseException):
    """In the place of SIGKILL."""


class Mortal(Quiet):
    """Dies when so many replies are on the disk."""

    def __init__(self, lives: int) -> None:
        self.lives = lives

    def advance(self, units: int = 1, **figures: float) -> None:
        self.lives -= units
        if self.lives == 0:
            raise Killed


@pytest.fixture(scope="module")
def shared(toy: dict[str, str], toy_run: RunDir) -> SharedBase:
    """In float64: in float32 the last bits of a row may depend on how many rows are beside it, as the CPU has it."""
    base = backends.load(toy["model"], quantization="none")
    shared = SharedBase.from_adapters(base, {"actor": toy_run.final("sft")}, ())
    shared.causal.double()
    return shared


def evaluate(shared: SharedBase, folder: Path, sampling: Sampling, progress: Any = None, **options: Any) -> list[dict]:
    writer = LocalWriter(shared, "actor", {"model": "toy"}, batch_size=4, max_tokens=40)
    loaded = benchmarks.Loaded(QUESTIONS, [])
    benchmark = benchmarks.shipped()["medqa"]
    run.evaluate(writer, "medqa", benchmark, loaded, folder, sampling=sampling, progress=progress or Quiet(), **options)
    return sorted(predictions.read(folder / "medqa.jsonl"), key=lambda row: (row["id"], row["run"]))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each call of `decode` got."""
    counts: list[int] = []
    decode = decoding.decode

    def counted(shared: SharedBase, queries: list[list[int]], **options: Any) -> Any:
        counts.append(len(queries))
        return decode(shared, queries, **options)

    monkeypatch.setattr(decoding, "decode", counted)
    return counts


@pytest.fixture
def steps(shared: SharedBase) -> Iterator[list[int]]:
    """The rows of each step of writing."""
    rows: list[int] = []
    handle = shared.lm_head.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    yield rows
    handle.remove()


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_killed_in_a_batch_equals_uninterrupted(
    shared: SharedBase, asked: list[int], steps: list[int], tmp_path: Path, sampling: Sampling
) -> None:
    whole = evaluate(shared, tmp_path / "whole", sampling)
    assert len({row["tokens"] for row in whole}) > 2, "replies of one length would end together"
    kept: list[dict[str, Any]] = []
    for lives in (1, 2, 1, 3):
        steps.clear()
        with pytest.raises(Killed):
            evaluate(shared, tmp_path / "killed", sampling, Mortal(len(kept) + lives))
        before, kept = kept, predictions.read(tmp_path / "killed/medqa.jsonl")
        assert (len(kept), kept[: len(before)]) == (len(before) + lives, before)
        if not before:
            assert len(steps) == kept[0]["tokens"], "a reply is kept with the step that ends it"
            assert max(steps) == 4
    assert evaluate(shared, tmp_path / "killed", sampling) == whole
    assert asked == [9, 9, 8, 6, 5, 2], "what is kept is not asked again"
