"""A rehearsal from the recipe to the verdict."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lite_huatuo import recipe as recipes
from lite_huatuo.models.gguf import cache_dir
from lite_huatuo.planning import config_file
from lite_huatuo.recipe import Recipe
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.rehearsal import blame, data, judges, known, short, steps, twin
from lite_huatuo.rehearsal.steps import Done, Stand

MOST_PROCESSES = 2  # on a CPU
ENVIRON = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Verdict:
    """What came of a rehearsal. `setting` is to blame for `wrong`, where one setting is; `logs` is kept on failure."""

    survives: bool
    steps: list[Done]
    stand_ins: list[str]
    memory: list[str] = field(default_factory=list)  # of the real base's first minute, on a card
    wrong: str | None = None
    setting: str | None = None
    folder: Path | None = None

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "folder": None if self.folder is None else str(self.folder)}


def rehearse(
    recipe: Recipe,
    *,
    on: str,
    cards: int = 0,
    keep: bool = False,
    search: bool = True,
    environ: dict[str, str] | None = None,
    begun: Callable[[list[str]], None] = lambda stand_ins: None,
    tell: Callable[[Done], None] = lambda done: None,
) -> Verdict:
    """Rehearse a recipe on "cpu" or "cuda"; `begun` is given what stands in, `tell` each step as it ends.
    After a failure it is run again, with one suspected setting plain at a time, to find the cause (`search`).

    The folder of runs and logs is deleted after a rehearsal that passed, unless it is to be kept.
    """
    cache = cache_dir() / "rehearsals"
    _sweep(cache)
    folder = cache / f"{recipe.name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base = recipe.base
    config, _ = config_file.find(base.model, fallback=base.fallback, revision=base.revision)
    problems = data.problems(short.language_of(recipe))
    model = twin.make(config, problems, cache_dir() / "twins")
    shortened = _shortened(recipe, model, folder, on, cards, data.write(problems, folder))
    notes = shortened.stand_ins
    begun(notes)
    done: list[Done] = []

    def told(each: Done) -> None:
        done.append(each)
        tell(each)

    surroundings = {**ENVIRON, **({"CUDA_VISIBLE_DEVICES": ""} if on == "cpu" else {}), **(environ or {})}
    stand = _stand(shortened.tree, folder, on, problems, surroundings)
    stand.real = recipe
    failed = steps.walk(stand, _steps(on), told)
    if failed is None and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    setting = _cause(stand, shortened.tree, failed) if failed in steps.STEPS and search else None
    left = folder if folder.exists() else None
    verdict = Verdict(failed is None, done, notes, stand.notes, done[-1].wrong, setting, left)
    known.note(recipe, on, verdict.facts())
    return verdict


def _cause(stand: Stand, tree: dict[str, Any], failed: str) -> str | None:
    """Return the setting without which the failed step passes, None where no single one is to blame."""
    names = list(steps.STEPS)
    upto, again = names[: names.index(failed) + 1], stand.folder / "again"

    def passes(changed: dict[str, Any]) -> bool:
        shutil.rmtree(again, ignore_errors=True)
        again.mkdir()
        made = _stand(changed, again, stand.on, stand.problems, stand.environ)
        return steps.walk(made, upto, lambda each: None) is None

    return blame.find(tree, passes)


def outline(recipe: Recipe, *, on: str, cards: int = 0) -> tuple[list[str], list[str]]:
    """Return what would stand in, and the steps, of a rehearsal; make and run nothing."""
    nowhere = Path("rehearsal")
    rows = {name: nowhere / f"{name}.jsonl" for name in ("sft", "problems", "heldout")}
    return _shortened(recipe, None, nowhere, on, cards, rows).stand_ins, _steps(on)


def _steps(on: str) -> list[str]:
    return [*steps.STEPS, *(steps.ON_A_CARD if on == "cuda" else ())]


def _shortened(
    recipe: Recipe, model: Path | None, folder: Path, on: str, cards: int, rows: dict[str, Path]
) -> short.Short:
    """Return the rehearsal's recipe and all that stands in; judges are made in the folder if there is a twin."""
    processes = min(recipe.launch.processes, MOST_PROCESSES if on == "cpu" else max(1, cards))
    notes: list[str] = []
    verifier = judges.stand_in(recipe, model, folder / "judges", notes)
    made = short.shorten(
        recipe, twin=model or folder, rows=rows, verifier=verifier, on=on, processes=processes
    )
    return short.Short(made.tree, [*notes, *made.stand_ins])


def _stand(
    tree: dict[str, Any], folder: Path, on: str, problems: Sequence[VerifiableProblem], environ: dict[str, str]
) -> Stand:
    """Return where a rehearsal of a recipe tree begins, its recipe and benchmark written into the folder."""
    stand = Stand(recipes.check(tree, "the rehearsal's recipe"), folder, on, problems, environ)
    steps.prepare(stand)
    return stand


def _sweep(cache: Path) -> None:
    """Delete the folders of rehearsals that were killed."""
    for path in cache.glob("*-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(path, ignore_errors=True)
