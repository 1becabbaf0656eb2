"""Merge a run's actor into 16-bit weights, tensor by tensor. Never into 4-bit ones: that erases what was learned.

Two promises. `base`: the original 16-bit base plus the adapter, the better general model, close to what was trained.
`trained`: the dequantised 4-bit base plus the adapter, exactly the model that was trained: what the loader rounds to
its own type is rounded so. Sums are made in float32 and rounded once. Memory holds some rows of one tensor (`trained`:
and that tensor in 4 bit), never the model.

Work is done in `.exporting-<name>` beside the result and renamed when it is whole and proven. A killed export goes on
from the shards that were finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lite_huatuo import __version__, jsonl, manifest
from lite_huatuo.errors import ExportError
from lite_huatuo.export import base_files, four_bit, logit_parity, plan, shard_writer, side_files, tensor_parity
from lite_huatuo.export.adapter_file import AdapterFile
from lite_huatuo.export.base_files import BaseFiles
from lite_huatuo.export.four_bit import FourBit
from lite_huatuo.export.network import Network, describe
from lite_huatuo.export.plan import Made, OutShard
from lite_huatuo.models import backends, gguf

Log = dict[str, Any]
STATE, FETCHED = "state.json", ".fetched"
REPORT = "export.json"


@dataclass(frozen=True)
class Job:
    """Everything an export does, known before it begins. `four_bit`: {weight: double quantization}; `held`: the type in
    which the loader held the base, None where the promise is the base as it is stored."""

    adapter: AdapterFile
    network: Network
    files: BaseFiles
    planned: list[OutShard]
    four_bit: dict[str, bool]
    held: torch.dtype | None
    fingerprint: str


def work_folder(to: Path) -> Path:
    """Return where the result for `to` is made."""
    return to.with_name(f".exporting-{to.name}")


def prepare(
    adapter: Path, to: Path, *, base: Log, onto: str, dtype: str, max_shard_size: str, low_disk: bool = False
) -> Job:
    """Plan an export without reading a weight; `base` is the recipe's base section."""
    folder, revision = gguf.resolve(base["model"], base.get("fallback")), base.get("revision")
    limit = plan.parse_size(max_shard_size)
    saved = AdapterFile(adapter)
    network = describe(folder, revision)
    files = base_files.find(folder, revision, work_folder(to) / FETCHED if low_disk else None)
    planned = plan.shards(files.shards, saved.changed, network.tied, getattr(torch, dtype), limit)
    quantised = onto == "trained" and base.get("quantization", "nf4") != "none"
    names = network.quantised - saved.replaced if quantised else frozenset()
    double = bool(base.get("double_quantization", True))
    held = backends.torch_dtype(base.get("compute_dtype", "auto")) if onto == "trained" else None
    identity = [__version__, saved.digest(), onto, dtype, limit, double, quantised, held]
    identity += [files.source, files.revision, _ages(files)]
    fingerprint = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()
    return Job(saved, network, files, planned, dict.fromkeys(sorted(names), double), held, fingerprint)


def export(
    adapter: Path,
    to: Path,
    *,
    base: Log,
    onto: str,
    dtype: str,
    max_shard_size: str,
    low_disk: bool = False,
    logits: bool = True,
    note: Callable[[str], None] = lambda text: None,
    finish: Callable[[Path, Log], None] = lambda folder, figures: None,
    finish_size: Callable[[list[OutShard]], int] = lambda planned: 0,
) -> Log:
    """Write the merged model with tokenizer and generation config to the new folder `to`; return the figures.

    Every tensor is compared with base + unmerged adapter; where the model fits into memory and `logits` is true, so are
    next-token distributions and greedy texts. Where one differs, nothing is left at `to`. Interrupted, the same call
    goes on from the finished shards. `note` gets a line for each step; `finish(folder, figures)` may add files and
    figures before the folder gets its name; `finish_size(planned)` says how many bytes that may take.
    """
    if to.exists():
        raise ExportError(f"{to}: already exists; give a new folder")
    job = prepare(adapter, to, base=base, onto=onto, dtype=dtype, max_shard_size=max_shard_size, low_disk=low_disk)
    work = work_folder(to)
    try:
        done = _resume(work, job)
        _check_space(work, job, done, finish_size(job.planned))
        _check_ties(job)
        figures = {"onto": onto, "dtype": dtype, **_merge(work, job, done, note)}
        side_files.write(work, job.network, job.planned, base=base, folder=job.files.source, dtype=dtype)
        if low_disk and not Path(job.files.source).is_dir():
            figures["logits"] = "not compared: the base's shards were deleted as they were used"
        elif not logits:
            figures["logits"] = "not compared: not asked for"
        else:
            note("comparing next-token distributions and greedy texts")
            figures |= _proven(work, lambda: logit_parity.compare(work, adapter, base=base, onto=onto, dtype=dtype))
        figures["fingerprint"] = job.fingerprint
        finish(work, figures)
        jsonl.write_text(work / REPORT, json.dumps(figures, indent=2) + "\n")
        (work / STATE).unlink()
        job.files.clear()
        os.replace(work, to)
    except OSError as error:
        raise ExportError(
            f"{to}: cannot be written ({error.strerror or error}); choose another folder, or free space and run the "
            "same command: it goes on from the finished shards"
        ) from None
    return figures


def pieces(
    name: str, made: Made, path: Path, adapter: AdapterFile, double: bool | None, held: torch.dtype | None
) -> Iterator[Tensor]:
    """Yield the rows of one exported tensor; `double` is None where the base's tensor is not quantised."""
    lora = adapter.lora(name) if name in adapter.loras else None
    whole = adapter.replacement(name) if name in adapter.replaced else None
    kept = None if lora is None and double is None else torch.float32
    stored = partial(base_files.rows, path, made.source, dtype=kept, held=held)
    cuts = list(base_files.spans(made.info.shape)) if double is None else four_bit.cuts(made.info.shape)
    packed = None if double is None else FourBit((stored(*cut) for cut in cuts), double_quantization=double)
    for start, stop in cuts:
        if packed is not None:
            rows = packed.rows(start, stop).to(held or torch.float32)
        else:
            rows = stored(start, stop) if whole is None else whole[start:stop]
        yield (rows if lora is None else lora.merged(rows.float(), start)).to(made.info.dtype)


def _merge(work: Path, job: Job, done: Log, note: Callable[[str], None]) -> Log:
    """Write and check every shard that is not done; return the figures of all."""
    for number, shard in enumerate(job.planned, 1):
        if shard.name in done:
            continue
        source, part = job.files.path(shard.base_shard), work / f".{shard.name}.part"
        digest = shard_writer.write(
            part, {name: made.info for name, made in shard.tensors.items()}, _all_pieces(shard, source, job)
        )
        checked = _proven(work, partial(tensor_parity.check, part, shard, source, job.adapter, job.four_bit, job.held))
        os.replace(part, work / shard.name)
        done[shard.name] = {"sha256": digest, **checked._asdict()}
        jsonl.write_text(work / STATE, json.dumps({"fingerprint": job.fingerprint, "shards": done}) + "\n")
        note(f"{number}/{len(job.planned)} {shard.name}: {checked.tensors} tensors, {checked.merged} of them merged")
        if number == len(job.planned) or job.planned[number].base_shard != shard.base_shard:
            job.files.done(shard.base_shard)
    return {
        "tensors": sum(found["tensors"] for found in done.values()),
        "tensors_merged": sum(found["merged"] for found in done.values()),
        "neighbours": sum(found["neighbours"] for found in done.values()),
        "sha256": {name: found["sha256"] for name, found in sorted(done.items())},
    }


def _all_pieces(shard: OutShard, source: Path, job: Job) -> Iterator[Tensor]:
    for name, made in shard.tensors.items():
        yield from pieces(name, made, source, job.adapter, job.four_bit.get(name), job.held)


def _proven(work: Path, check: Callable[[], Any]) -> Any:
    """Return what a check found; where it fails, delete the work: nothing of it may be taken for a model."""
    try:
        return check()
    except ExportError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _resume(work: Path, job: Job) -> Log:
    """Return the finished shards of an interrupted export of the same job; any other work is deleted."""
    try:
        state = json.loads((work / STATE).read_text(encoding="utf-8"))
        done = state["shards"] if state["fingerprint"] == job.fingerprint else None
    except (OSError, ValueError, KeyError):
        done = None
    if done is None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        jsonl.write_text(work / STATE, json.dumps({"fingerprint": job.fingerprint, "shards": {}}) + "\n")
        return {}
    for leftover in work.glob(".*.part"):
        leftover.unlink()
    return {
        name: found
        for name, found in done.items()
        if (work / name).is_file() and manifest.digest(work / name) == found["sha256"]
    }


def _check_space(work: Path, job: Job, done: Log, extra: int) -> None:
    """Refuse at once what will not fit on the disk: the shards, and beside them either the base's that is fetched, or,
    when that is gone, `extra` bytes."""
    fetched = job.files.shards.values() if job.files.fetched is not None else ()
    beside = max([extra, *(sum(shard_writer.size(info) for info in shard.values()) for shard in fetched)])
    needed = beside + sum(size for name, size in plan.file_sizes(job.planned).items() if name not in done)
    free = shutil.disk_usage(work).free
    if needed > free:
        if not done:
            shutil.rmtree(work, ignore_errors=True)
        raise ExportError(f"{work.parent}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; choose another")


def _check_ties(job: Job) -> None:
    """Refuse a base that says two tensors are one and stores another second one: transformers then takes both."""
    places = {name: shard for shard, tensors in job.files.shards.items() for name in tensors}
    for output, shared in job.network.tied.items():
        if not {output, shared} <= set(places):
            continue
        one, other = (job.files.path(places[name]) for name in (output, shared))
        for span in base_files.spans(job.files.shards[places[shared]][shared].shape):
            if not torch.equal(base_files.rows(one, output, *span), base_files.rows(other, shared, *span)):
                raise ExportError(
                    f"{job.files.source}: {output} is not {shared}, though config.json says that they are one "
                    "(tie_word_embeddings); say false there, as the base is loaded with both"
                )


def _ages(files: BaseFiles) -> list[Any]:
    """Return size and time of each local shard, so that a changed base is another job; fetched ones have a commit."""
    if files.fetched is not None:
        return []
    stats = [files.path(shard).stat() for shard in files.shards]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]
