"""The steps of a rehearsal, in order. Each runs a command as the user would and looks at what it left behind.

A step returns what is wrong in words, or None; the first that finds something ends the rehearsal.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.recipe import Recipe
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.rehearsal import checks, child, data
from lite_huatuo.rehearsal import first_minute as minute
from lite_huatuo.rehearsal.child import Ended
from lite_huatuo.rehearsal.short import INTERVAL

CARD_TOLERANCE = 1e-4  # between weights of runs on a card, whose sums are not made in one order
FIRST_CHECKPOINT = f"checkpoints/update-{INTERVAL:06d}"


@dataclass
class Stand:
    """Where the rehearsal stands: its recipe, folder and commands so far. `environ` is set in every command."""

    recipe: Recipe
    folder: Path
    on: str
    problems: Sequence[VerifiableProblem]
    environ: dict[str, str] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    real: Recipe | None = None  # the user's own recipe, whose base is tried on a card
    notes: list[str] = field(default_factory=list)  # what a step found that is worth a line

    @property
    def file(self) -> Path:
        """The rehearsal's recipe as a file."""
        return self.folder / "rehearsal.yaml"

    @property
    def whole(self) -> Path:
        """The run that nothing disturbs."""
        return self.folder / "whole"

    @property
    def killed(self) -> Path:
        """The run that is killed and resumed."""
        return self.folder / "killed"

    def command(self, *words: str, kill: Callable[[float], bool] | None = None) -> Ended:
        """Run a command; its log is in the folder's logs/."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{len(self.ended) + 1:02d}-{words[0]}.txt"
        ended = child.run(words, log, on=self.on, environ=self.environ, kill=kill)
        self.ended.append(ended)
        return ended

    def train(self, run: Path, *more: str, kill: Callable[[float], bool] | None = None) -> Ended:
        """Run `train` into a run folder. What judges was chosen by the rehearsal: it is taken as it is."""
        words = ("train", "--recipe", str(self.file), "--run", str(run), "--threads", "1", "--accept-verifier")
        return self.command(*words, *more, kill=kill)


Step = Callable[[Stand], "str | None"]


def prepare(stand: Stand) -> None:
    """Write the rehearsal's recipe and benchmark."""
    tree = stand.recipe.model_dump()
    jsonl.write_text(stand.file, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    jsonl.write(stand.folder / "benchmark.jsonl", data.exam(stand.problems))


def train(stand: Stand) -> str | None:
    """Both stages, undisturbed."""
    return _failed(stand.train(stand.whole)) or checks.trained(stand.recipe, stand.whole)


def kill(stand: Stand) -> str | None:
    """The same run again, ended by SIGKILL after its first checkpoint of stage 2."""
    first = stand.killed / "ppo" / FIRST_CHECKPOINT
    ended = stand.train(stand.killed, kill=lambda seconds: first.is_dir())
    if ended.code == 0 and (stand.killed / "ppo" / "final").is_dir():
        # a small run on a fast machine is over before the signal comes: cut it back to that checkpoint
        shutil.rmtree(stand.killed / "ppo" / "final")
        for path in (stand.killed / "ppo" / "checkpoints").glob("update-*"):
            if path != first:
                shutil.rmtree(path)
        return None
    if ended.code < 0 and first.is_dir():
        return None
    return _failed(ended) or "ended without a checkpoint of stage 2"


def resume(stand: Stand) -> str | None:
    """The killed run goes on and ends like the undisturbed one."""
    tolerance = 0.0 if stand.on == "cpu" and stand.recipe.launch.processes == 1 else CARD_TOLERANCE
    return (
        _failed(stand.train(stand.killed, "--resume"))
        or checks.trained(stand.recipe, stand.killed)
        or checks.same(stand.whole, stand.killed, tolerance=tolerance)
    )


def finished(stand: Stand) -> str | None:
    """A finished run, resumed once more, stays as it is."""
    finals = [stand.killed / stage / "final" for stage in ("sft", "ppo")]
    before = [checks.digests(folder) for folder in finals]
    if failed := _failed(stand.train(stand.killed, "--resume")):
        return failed
    return None if before == [checks.digests(folder) for folder in finals] else "resuming changed a finished run"


def evaluate(stand: Stand) -> str | None:
    """The student answers a few exam questions."""
    where = stand.folder / "benchmark.jsonl"
    ended = stand.command("eval", str(stand.whole), "--benchmark", f"medqa={where}", "--threads", "1")
    return _failed(ended) or checks.answered(stand.whole / "eval" / "ppo", data.QUESTIONS)


def export(stand: Stand) -> str | None:
    """The student is merged as the recipe says, and proven."""
    return _failed(stand.command("export", str(stand.whole), "--to", str(stand.folder / "exported")))


def reload(stand: Stand) -> str | None:
    """The exported model answers a question."""
    exported, question = str(stand.folder / "exported"), stand.problems[0].question
    return _failed(stand.command("chat", exported, "--once", question, "--max-tokens", "24"))


def report(stand: Stand) -> str | None:
    """The run's page."""
    return _failed(stand.command("report", str(stand.whole)))


def first_minute(stand: Stand) -> str | None:
    """The real base, on a card: one step of each kind at full size, its memory beside `plan`."""
    assert stand.real is not None
    folder = stand.folder / "real"
    recipe = recipes.check(minute.tree(stand.real, folder), "the first minute's recipe")
    jsonl.write_text(folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True))
    run = folder / "run"
    words = ("train", "--recipe", str(folder / "recipe.yaml"), "--run", str(run), "--accept-verifier")
    if failed := _failed(stand.command(*words)):
        return failed
    stand.notes += minute.beside_plan(recipe, run)
    return None


STEPS: dict[str, Step] = {
    "train": train,
    "kill": kill,
    "resume": resume,
    "resume again": finished,
    "eval": evaluate,
    "export": export,
    "reload": reload,
    "report": report,
}
ON_A_CARD: dict[str, Step] = {"first minute": first_minute}


@dataclass(frozen=True)
class Done:
    """A step that was done: seconds, most resident MiB of its commands, what was wrong or None."""

    name: str
    seconds: float
    mib: float | None
    wrong: str | None


def walk(stand: Stand, names: Sequence[str], tell: Callable[[Done], None]) -> str | None:
    """Do the steps until one finds something; return its name and `tell` of each as it ends."""
    for name in names:
        start, before = time.perf_counter(), len(stand.ended)
        wrong = (STEPS | ON_A_CARD)[name](stand)
        peaks = [ended.mib for ended in stand.ended[before:] if ended.mib is not None]
        tell(Done(name, time.perf_counter() - start, max(peaks, default=None), wrong))
        if wrong is not None:
            return name
    return None


def _failed(ended: Ended) -> str | None:
    """Return why a command failed, or None."""
    if ended.code == 0:
        return None
    if ended.code < 0:
        return f"ended by signal {-ended.code} (log: {ended.log})"
    return f"{child.last_words(ended.log)} (log: {ended.log})"
