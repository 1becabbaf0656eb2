"""Parts of a job by id, and parts put together again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from lite_huatuo.data import pipeline, runner, shards
from lite_huatuo.errors import RecordError, ReplyError
from lite_huatuo.records import VerifiableProblem

PROBLEMS = [VerifiableProblem(f"p-{number}", f"Question {number}?", "yes") for number in range(300)]
IDS = [problem.id for problem in PROBLEMS]


async def work(problem: VerifiableProblem) -> runner.Rows:
    number = int(problem.id[2:])
    if number % 10 == 3:
        raise ReplyError("step: no")
    rows: runner.Rows = {"": [{"id": problem.id}]}
    return {**rows, "sft": [{"id": problem.id, "number": number}] * (number % 3)}


def run(to: Path, part: str | None) -> Path:
    chosen = shards.shard(PROBLEMS, part)
    outputs = pipeline.outputs(to, "sft")
    asyncio.run(runner.run(chosen, work, outputs, fingerprint={}, concurrency=8, max_failures=1.0))
    return to


def contents(to: Path) -> list[bytes]:
    return [path.read_bytes() for path in pipeline.outputs(to, "sft").values()]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_record_is_in_one_part(count: int) -> None:
    parts = [[one.id for one in shards.shard(PROBLEMS, f"{i}/{count}")] for i in range(1, count + 1)]
    assert Counter(identifier for part in parts for identifier in part) == dict.fromkeys(IDS, 1)
    assert min(map(len, parts)) > 300 / count / 2, "parts are about equal"
    assert all(part == sorted(part, key=IDS.index) for part in parts)


def test_the_id_alone_decides() -> None:
    kept = {one.id for one in shards.shard(PROBLEMS, "2/3")}
    assert {one.id for one in shards.shard(PROBLEMS[::-1][:100], "2/3")} == kept & set(IDS[200:])
    assert [shards.part_of(one, 5) for one in IDS[:6]] == [1, 1, 5, 3, 1, 2], "the same on every machine and version"


@pytest.mark.parametrize("part", ["", "0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_a_part_written_wrongly_is_told(part: str) -> None:
    with pytest.raises(RecordError, match="write it i/n"):
        list(shards.shard(PROBLEMS, part))


def test_merged_parts_equal_one_run(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl", None)
    parts = [run(tmp_path / f"part-[{i}].jsonl", f"{i}/3") for i in (1, 2, 3)]
    counts = shards.merge(parts[::-1], lambda: IDS, tmp_path / "merged.jsonl")
    assert contents(tmp_path / "merged.jsonl") == contents(whole)
    assert counts == {"": 270, "sft": 270, "failed": 30}


def test_what_cannot_be_merged_is_told(tmp_path: Path) -> None:
    parts = [run(tmp_path / f"{i}.jsonl", f"{i}/2") for i in (1, 2)]
    to = tmp_path / "merged.jsonl"
    with pytest.raises(RecordError, match="every part must be finished"):
        shards.merge([*parts, tmp_path / "3.jsonl"], lambda: IDS, to)
    with pytest.raises(RecordError, match=r"1.jsonl:\d+: 'p-\d+' is in another part too"):
        shards.merge([parts[0], parts[1], parts[0]], lambda: IDS, to)
    with pytest.raises(RecordError, match="is not where the input has it"):
        shards.merge(parts, lambda: IDS[::-1], to)
    with pytest.raises(RecordError, match="is not where the input has it"):
        shards.merge(parts, lambda: IDS[:100], to)
    assert not list(tmp_path.glob("*merged*")), "nothing half-written"
