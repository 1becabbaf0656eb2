"""The run folder and its contract: who may write where, and what a resumed run finds.

runs/<name>/recipe.yaml  environment.json  run.json (its id)  events.jsonl
runs/<name>/{sft,ppo}/metrics.jsonl  samples.jsonl  checkpoints/  final/
runs/<name>/eval/
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lite_huatuo import __version__, jsonl, manifest, nearest, schema
from lite_huatuo.errors import CheckpointError, RecipeError, RecordError

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors", "unsloth")
IDENTITY = "run.json"
STAGES = {"base": "base", "sft": "SFT", "ppo": "SFT + PPO"}  # a run's students, and what tables call them
# Recipe keys that may differ on resuming: they do not change a number.
FREE_ON_RESUME = ("name", "report_to", "launch", "ppo.watch", "eval.benchmarks")


class RunDir:
    """A run folder. Make one with `create` (new), `resume` (go on) or `open` (read).

    Of several processes only the main one `writes`; for the others the writing methods do nothing.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    @classmethod
    def create(cls, path: Path, recipe: dict[str, Any], *, overwrite: bool = False) -> RunDir:
        """Make a new run folder; an existing one is refused unless `overwrite`, which deletes it."""
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path}: is a file; choose another folder with --run")
        if path.exists() and _begun(path):
            if not overwrite:
                raise CheckpointError(f"{path}: already exists; go on with --resume or replace it with --overwrite")
            if not all((path / name).is_file() for name in ("recipe.yaml", "environment.json")):
                raise CheckpointError(
                    f"{path}: is not a run folder (no recipe.yaml with environment.json), so "
                    "--overwrite will not delete it"
                )
        try:
            aside = path.with_name(f".old-{path.name}")  # moved first: killed half-way, no half of a run is left
            if aside.exists():
                shutil.rmtree(aside)
            if overwrite and path.exists():
                if path.is_symlink():
                    shutil.rmtree(path)  # refuses it
                os.replace(path, aside)
                shutil.rmtree(aside)
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path)
            for stage in ("sft", "ppo"):
                (path / stage / "checkpoints").mkdir(parents=True, exist_ok=True)
            (path / "eval").mkdir(exist_ok=True)
            jsonl.write_text(path / "environment.json", json.dumps(environment(), indent=2) + "\n")
            jsonl.write_text(path / IDENTITY, json.dumps({"id": uuid.uuid4().hex}) + "\n")
            jsonl.write_text(path / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot write the run folder ({error.strerror}); choose another with --run"
            ) from None
        run.event("created")
        return run

    @classmethod
    def resume(cls, path: Path, recipe: dict[str, Any]) -> RunDir:
        """Open an existing run to go on with it; its recipe must be the same in everything that changes a number."""
        try:
            run = cls.open(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, or begin one without --resume or --stage ppo") from None
        differences = _differences(run.recipe(), recipe)
        if differences:
            raise CheckpointError(
                f"{path}: was started with another recipe ({'; '.join(differences)}); "
                "resume with that recipe, or start a new run with --run"
            )
        run.event("resumed")
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run folder for reading."""
        if not (path / "recipe.yaml").is_file():
            near = "" if path.exists() else meant(path)
            raise CheckpointError(
                f"{path}{near}: no run here (no recipe.yaml); give the folder of a run, such as runs/demo"
            )
        return cls(path)

    @cached_property
    def id(self) -> str | None:
        """What tells this run from every other, also from one with the same recipe; None for one from before ids."""
        return self.facts(IDENTITY).get("id")

    def recipe(self) -> dict[str, Any]:
        """Return the resolved recipe the run was started with."""
        path = self.path / "recipe.yaml"
        try:
            return schema.read(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError, RecipeError):
            raise CheckpointError(f"{path}: damaged; put the recipe back or start again with --overwrite") from None

    def stage(self, name: str) -> Path:
        """Return the folder of stage "sft" or "ppo"."""
        return self.path / name

    def final(self, stage: str, adapter: str = "actor") -> Path:
        """Return the folder of a stage's final adapter."""
        return self.path / stage / "final" / adapter

    def is_done(self, stage: str) -> bool:
        """True where the stage ran to its end (its final folder is renamed into place last)."""
        return (self.path / stage / "final").is_dir()

    def sound(self, stage: str, adapter: str = "actor", *, where: str = "final") -> Path:
        """Return the folder of a stage's adapter; CheckpointError where it is not as it was written."""
        folder = self.path / stage / where
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: no {stage.upper()} adapter; run `lite-huatuo train --stage {stage}` first"
            )
        wrong = manifest.damage(folder)
        if wrong is not None:
            otherwise = (
                "delete it and go on with `train --resume`" if where == "final" else "start a new run with --run"
            )
            raise CheckpointError(f"{folder}: damaged ({wrong}); put it back from a copy, or {otherwise}")
        return folder / adapter

    def actor(self) -> Path:
        """Return the newest finished actor adapter: PPO's, else SFT's."""
        for stage in ("ppo", "sft"):
            if self.is_done(stage):
                return self.sound(stage)
        raise CheckpointError(f"{self.path}: no stage is finished yet; run `lite-huatuo train --resume` on it first")

    def remember(self, name: str, facts: dict[str, Any]) -> None:
        """Keep facts that a resumed run depends on in <run>/<name>; CheckpointError where they were others before."""
        self.compare(name, facts)
        path = self.path / name
        if self.writes and not path.exists():
            jsonl.write_text(path, json.dumps(facts, indent=1, sort_keys=True) + "\n")

    def facts(self, name: str) -> dict[str, Any]:
        """Return the facts kept in <run>/<name>; empty where none were."""
        return kept(self.path / name, "start again with --overwrite")

    def compare(self, name: str, facts: dict[str, Any]) -> None:
        """CheckpointError where the facts kept in <run>/<name> are others."""
        before = self.facts(name)
        if differences := _differences(before, json.loads(json.dumps(facts))) if before else []:
            raise CheckpointError(
                f"{self.path}: what it works on has changed since it was started ({'; '.join(differences)}); put it "
                "back, or start a new run with --run"
            )

    def event(self, what: str, **details: Any) -> None:
        """Append one line to events.jsonl: what happened, when, with details."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **details}
        self._append(self.path / "events.jsonl", [row])

    def log(self, stage: str, row: dict[str, Any]) -> None:
        """Append one row of metrics."""
        self._append(self.stage(stage) / "metrics.jsonl", [row])

    def sample(self, stage: str, rows: list[dict[str, Any]]) -> None:
        """Append sample replies."""
        self._append(self.stage(stage) / "samples.jsonl", rows)

    def _append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        if self.writes:
            jsonl.append(path, rows)

    def rewind(self, stage: str, counter: str, last: int) -> None:
        """Drop metrics and samples beyond `counter` == last: they will be written again by the resumed run."""
        for name in ("metrics.jsonl", "samples.jsonl") if self.writes else ():
            path = self.stage(stage) / name
            if path.exists():
                jsonl.drop_torn_tail(path)
                rows = [row for where, row in jsonl.iter_rows(path) if count(row, counter, where) <= last]
                jsonl.write(path, rows)


def kept(path: Path, otherwise: str) -> dict[str, Any]:
    """Return the JSON object that a file of a run holds, empty where there is no file.

    Of one that is damaged CheckpointError says: put it back from a copy or `otherwise`.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: damaged; put it back from a copy or {otherwise}")
    return found


def count(row: dict[str, Any], counter: str, where: str) -> int:
    """Return the update or step of a row that stands at `where`; RecordError where it has none."""
    found = row.get(counter)
    if not isinstance(found, int):
        raise RecordError(f"{where}: no {counter}, damaged; remove this line")
    return found


def meant(path: Path) -> str:
    """Return what may have been meant by a folder that does not exist, after a space; "" where nobody knows."""
    if (named := Path("runs") / path).is_dir():
        return f" (did you mean {named}?)"
    return nearest.file_hint(path)


def _begun(folder: Path) -> bool:
    """True where a folder holds more than `create` leaves when it is killed before its end, which is the recipe."""
    written = ("environment.json", IDENTITY, "recipe.yaml")
    left = {*written[:-1], *(f".{name}.tmp" for name in written)} if (folder / "eval").is_dir() else set()
    return any(path.name not in left for path in folder.rglob("*") if not path.is_dir())


def environment() -> dict[str, Any]:
    """Return versions, git commit and hardware: what is needed to explain a number later. No variables, no keys."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "lite_huatuo": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout the package runs from, or None."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return "path: old → new" for every differing leaf that changes a number."""
    found = []
    for key in sorted({*old, *new}):
        path = f"{prefix}{key}"
        if path in FREE_ON_RESUME:
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{path}.")
        elif before != after:
            found.append(f"{path}: {before!r} → {after!r}")
    return found
