"""The steps of `export`: plan, make, publish. Imported when the command runs: it brings torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from lite_huatuo import jsonl, manifest
from lite_huatuo.cli import terminal
from lite_huatuo.errors import ExportError, LiteHuatuoError
from lite_huatuo.export import (
    adapter_file,
    adapter_folder,
    card_facts,
    curves,
    gguf_file,
    gguf_vocabulary,
    hub,
    licence_files,
    licences,
    merge,
    model_card,
    plan,
)
from lite_huatuo.export.plan import OutShard
from lite_huatuo.models import gguf, run_base
from lite_huatuo.models import tokenizer as tokenizers
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir

CARD = "README.md"
BYTES = {"f16": 2, "q8_0": 34 / 32}  # of an element in a GGUF file; 1-dimensional tensors stay float32
LONG = 10**9  # bytes from which reading files is told


@dataclass(frozen=True)
class Request:
    """What the command line and the recipe ask for."""

    run: RunDir
    recipe: Recipe
    stage: str
    to: Path
    onto: str
    dtype: str
    only_adapter: bool
    low_disk: bool
    logits: bool
    gguf: str | None
    repo: str | None

    @property
    def adapter(self) -> Path:
        """The folder of the adapter that is exported."""
        return self.run.sound(self.stage)

    @property
    def base(self) -> dict[str, Any]:
        """The recipe's base section, with the commit that the run began with and the type it was trained in."""
        return run_base.as_trained(self.run, self.recipe.base.model_dump())

    def counts(self) -> dict[str, int]:
        """Return how much data the run was given, as it is found now; empty where it cannot be read any more."""
        from lite_huatuo.training import inputs

        try:
            data = inputs.read(**self.recipe.input_arguments())
        except LiteHuatuoError:
            return {}
        counts = {
            "SFT examples": len(data.sft),
            "PPO problems": len(data.problems),
            "held-out problems": len(data.heldout),
        }
        return {what: count for what, count in counts.items() if self.stage == "ppo" or what != "PPO problems"}

    def merging(self) -> dict[str, Any]:
        """Return the arguments that merge.prepare and merge.export share."""
        return {
            "base": self.base,
            "onto": self.onto,
            "dtype": self.dtype,
            "max_shard_size": self.recipe.export.max_shard_size,
            "low_disk": self.low_disk,
        }


def show_plan(request: Request, *, public: bool) -> None:
    """Print the files an export would write and push, with their sizes."""
    if request.only_adapter:
        sizes = {path.name: path.stat().st_size for path in sorted(request.adapter.iterdir())}
    else:
        planned = merge.prepare(request.adapter, request.to, **request.merging()).planned
        sizes, name, modelfile = plan.file_sizes(planned), gguf_name(request), _modelfile(request)
        if name is not None and modelfile is not None:
            sizes |= {name: _gguf_size(request, planned), "Modelfile": len(modelfile.encode())}
    for name, size in sizes.items():
        terminal.say(f"{readable(size):>10}  {name}")
    terminal.say(f"{readable(sum(sizes.values())):>10}  in all, beside configuration, tokenizer and card")
    if request.repo:
        terminal.say(f"to {request.repo} on the Hub, {'public' if public else 'private'}, in one commit")


def make(request: Request, *, again: bool) -> dict[str, Any]:
    """Export to `request.to` and return the figures; `again`: where this very export is there already, take it."""
    run_base.check(request.run, request.base)
    if again and request.to.exists():
        return _there_already(request)
    if request.only_adapter:
        return adapter_folder.export(request.adapter, request.to, base=request.base, finish=finisher(request))
    if not request.to.exists():
        _modelfile(request)
    return merge.export(
        request.adapter,
        request.to,
        **request.merging(),
        logits=request.logits,
        note=say,
        finish=finisher(request),
        finish_size=partial(_gguf_size, request),
    )


def publish(request: Request, figures: dict[str, Any], **options: Any) -> str:
    """Push the exported folder; return the commit's address. `figures` are those of `make`."""
    assert request.repo is not None
    licence = licences.of(adapter_folder.public_base(request.base), request.recipe.export.license)
    hint = licences.name_hint(licence, request.repo)
    if hint:
        say(hint)
    _renew_card(request, figures)
    return hub.push(request.to, request.repo, **options, note=say)


def finisher(request: Request) -> Callable[[Path, dict[str, Any]], None]:
    """Return what adds GGUF file, the base's notice, card and picture to an export before it gets its name."""

    def finish(folder: Path, figures: dict[str, Any]) -> None:
        _clear(folder)
        figures["gguf"] = _write_gguf(request, folder)
        if figures["gguf"] is not None:
            figures["sha256"] = {**figures["sha256"], figures["gguf"]: manifest.digest(folder / figures["gguf"])}
        base = adapter_folder.public_base(request.base)
        licence = licences.of(base, request.recipe.export.license)
        figures["licence_files"] = licence_files.write(request.base, folder, licence.notice if licence else None)
        if licence and licence.notice and not licence_files.has_agreement(figures["licence_files"]):
            say(f"the licence of {base} must go along and was not found there; put its LICENSE into the folder")
        if request.only_adapter:
            _tell_of_adapter(request, figures)
        _write_card(request, folder, figures)

    return finish


def _tell_of_adapter(request: Request, figures: dict[str, Any]) -> None:
    """Say what is special about an adapter, beside what its own configuration tells."""
    rank, most = request.recipe.adapter.rank, model_card.VLLM_RANKS[-1]
    if rank > most:
        figures["vllm"].append(f"its rank is {rank}, and {most} is the highest that is supported")
    if adapter_folder.hub_id(request.base) is None:
        say("the base has no Hub id, so the adapter does not name it; whoever loads the adapter must name its base")


def _write_card(request: Request, folder: Path, figures: dict[str, Any]) -> None:
    """Write card and picture; leave the card's digest in the figures. A card that someone has edited is kept."""
    facts = card_facts.read(request.run.path, request.run.recipe(), request.stage)
    hub_id = adapter_folder.hub_id(request.base)
    text = model_card.render(
        facts,
        figures,
        base=hub_id or PurePath(adapter_folder.public_base(request.base)).name,
        on_hub=hub_id is not None,
        counts=request.counts(),
        repo=request.repo,
        gguf=figures["gguf"],
    )
    path, digest = folder / CARD, hashlib.sha256(text.encode()).hexdigest()
    if path.is_file() and manifest.digest(path) not in (figures.get("card"), digest):
        say(f"{path}: was edited since the export; it is kept as it is")
        return
    if facts.curves:
        jsonl.write_text(folder / model_card.PICTURE, curves.picture(facts.curves))
    jsonl.write_text(path, text)
    figures["card"] = digest


def _renew_card(request: Request, figures: dict[str, Any]) -> None:
    """Write the card again before it is published: the repository has a name now, and there may be new evaluations."""
    before = dict(figures)
    try:
        _write_card(request, request.to, figures)
        if figures != before:
            jsonl.write_text(request.to / merge.REPORT, json.dumps(figures, indent=2) + "\n")
    except OSError as error:
        raise ExportError(f"{request.to}: its card cannot be written ({error.strerror or error})") from None


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left that was killed here: half files, a GGUF file, the card made for it."""
    for pattern in (".*.part", ".*.tmp", "*.gguf", "Modelfile", CARD):
        for path in folder.glob(pattern):
            path.unlink()


def _write_gguf(request: Request, folder: Path) -> str | None:
    """Write GGUF file and Modelfile where they are asked for; return the file's name. It gets it when it is whole."""
    name = gguf_name(request)
    if request.gguf is None or name is None:
        return None
    from transformers import AutoTokenizer, GenerationConfig

    say(f"{name}: writing")
    part = folder / f".{name}.part"
    try:
        gguf_file.write(folder, part, request.gguf, name=request.recipe.name)
        stops = GenerationConfig.from_pretrained(folder).eos_token_id
        text = gguf_vocabulary.modelfile(AutoTokenizer.from_pretrained(folder), stops, name)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, folder / name)
    finally:
        part.unlink(missing_ok=True)
    jsonl.write_text(folder / "Modelfile", text)
    return name


def gguf_name(request: Request) -> str | None:
    """Return the name of the GGUF file, or None where none is asked for."""
    return f"{request.recipe.name}-{request.gguf}.gguf" if request.gguf else None


def _modelfile(request: Request) -> str | None:
    """Return the Modelfile that goes with the GGUF file, None where none is asked for.

    It is made before the merge from the base's configuration and tokenizer, so that what the GGUF file would be refused
    for is told before the hours of work, not after them.
    """
    name = gguf_name(request)
    if name is None:
        return None
    from transformers import AutoConfig

    base = request.base
    folder, revision = gguf.resolve(base["model"], base.get("fallback")), base.get("revision")
    config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)
    gguf_file.check(config)
    tokenizer = tokenizers.load(folder, revision=revision, chat_template=base.get("chat_template"))
    gguf_vocabulary.vocabulary(tokenizer.hf, config.vocab_size)
    return gguf_vocabulary.modelfile(tokenizer.hf, tokenizer.stop_ids, name)


def _gguf_size(request: Request, planned: list[OutShard]) -> int:
    """Return about how many bytes the GGUF file will have, 0 where none is asked for."""
    if request.gguf is None:
        return 0
    shapes = [made.info.shape for shard in planned for made in shard.tensors.values()]
    return sum(round(math.prod(shape) * (BYTES[request.gguf] if len(shape) > 1 else 4)) for shape in shapes)


def say(text: str) -> None:
    """Tell a step on stderr."""
    terminal.say(text, err=True)


def readable(size: int) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"


def _there_already(request: Request) -> dict[str, Any]:
    """Return the figures of a finished export that is what is asked for now, or refuse."""
    try:
        figures = json.loads((request.to / merge.REPORT).read_text(encoding="utf-8"))
        wanted = adapter_folder.fingerprint(request.adapter) if request.only_adapter else None
        wanted = wanted or merge.prepare(request.adapter, request.to, **request.merging()).fingerprint
        same = figures["fingerprint"] == wanted and figures["gguf"] == gguf_name(request)
        digests = {adapter_file.WEIGHTS: wanted.split()[-1]} if request.only_adapter else dict(figures["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise ExportError(f"{request.to}: already exists and is another export; give a new folder")
    say(f"{request.to}: is this export already")
    _verify(request.to, digests)
    return figures


def _verify(folder: Path, digests: dict[str, str]) -> None:
    """Hold the weights of a finished export against their SHA-256s: what has changed is not published."""
    again = "export again into a new folder"
    lost = [name for name in digests if not (folder / name).is_file()]
    if lost:
        raise ExportError(f"{folder / lost[0]}: is missing; {again}")
    found = {path.name for pattern in ("*.safetensors", "*.gguf") for path in folder.glob(pattern)}
    for name in sorted(found - set(digests)):
        raise ExportError(f"{folder / name}: has no checksum in {merge.REPORT}; move it away, or {again}")
    sizes = {name: (folder / name).stat().st_size for name in digests}
    for name, digest in digests.items():
        if sum(sizes.values()) > LONG:
            say(f"{name}: reading {readable(sizes[name])} to compare its checksum")
        if manifest.digest(folder / name) != digest:
            raise ExportError(f"{folder / name}: was changed or damaged since the export; {again}")
