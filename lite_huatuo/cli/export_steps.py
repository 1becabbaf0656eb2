"""The steps of `export`: plan, make, publish. Imported when the command runs: it brings torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.cli import terminal
from lite_huatuo.errors import ExportError, LiteHuatuoError
from lite_huatuo.export import (
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
from lite_huatuo.models import run_base
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir


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
        """The recipe's base section, with the commit that the run began with."""
        return run_base.section(self.run, self.recipe.base.model_dump())

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
        sizes = plan.file_sizes(merge.prepare(request.adapter, request.to, **request.merging()).planned)
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
    return merge.export(
        request.adapter, request.to, **request.merging(), logits=request.logits, note=say, finish=finisher(request)
    )


def publish(request: Request, **options: Any) -> str:
    """Push the exported folder; return the commit's address."""
    assert request.repo is not None
    licence = licences.of(adapter_folder.public_base(request.base), request.recipe.export.license)
    hint = licences.name_hint(licence, request.repo)
    if hint:
        say(hint)
    return hub.push(request.to, request.repo, **options, note=say)


def finisher(request: Request) -> Callable[[Path, dict[str, Any]], None]:
    """Return what adds the card, its picture and the base's notice to an export before it gets its name."""

    def finish(folder: Path, figures: dict[str, Any]) -> None:
        recipe = request.run.recipe()
        figures["gguf"] = _write_gguf(request, folder)
        facts = card_facts.read(request.run.path, recipe, request.stage)
        base = adapter_folder.public_base(request.base)
        if facts.curves:
            jsonl.write_text(folder / model_card.PICTURE, curves.picture(facts.curves))
        licence = licences.of(base, request.recipe.export.license)
        figures["licence_files"] = licence_files.write(request.base, folder, licence.notice if licence else None)
        if licence and licence.notice and not licence_files.has_agreement(figures["licence_files"]):
            say(f"the licence of {base} must go along and was not found there; put its LICENSE into the folder")
        text = model_card.render(
            facts, figures, base=base, counts=request.counts(), repo=request.repo, gguf=figures["gguf"]
        )
        jsonl.write_text(folder / "README.md", text)

    return finish


def _write_gguf(request: Request, folder: Path) -> str | None:
    """Write GGUF file and Modelfile where they are asked for; return the file's name."""
    name = gguf_name(request)
    if request.gguf is None or name is None:
        return None
    from transformers import AutoTokenizer, GenerationConfig

    say(f"{name}: writing")
    gguf_file.write(folder, folder / name, request.gguf, name=request.recipe.name)
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    text = gguf_vocabulary.modelfile(AutoTokenizer.from_pretrained(folder), stops, name)
    jsonl.write_text(folder / "Modelfile", text)
    return name


def gguf_name(request: Request) -> str | None:
    """Return the name of the GGUF file, or None where none is asked for."""
    return f"{request.recipe.name}-{request.gguf}.gguf" if request.gguf else None


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
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        raise ExportError(f"{request.to}: already exists and is another export; give a new folder")
    say(f"{request.to}: is this export already")
    return figures
