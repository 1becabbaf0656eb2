"""Predictions on disk: one row for each question and run, kept as replies come, never asked for twice.

    <folder>/<benchmark>.jsonl   {id, run, asked, options, shuffled, right, reply, tokens, stopped, readings, reading,
                                 correct, check}
    <folder>/<benchmark>.settings.json   and the salt that tells its requests from another evaluation's
    <folder>/report.json         {benchmark: summary}

Where a run's evaluations stand: runs/<name>/eval/<stage>/, stage being base, sft or ppo.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError
from lite_huatuo.evaluation import answers
from lite_huatuo.records import ExamQuestion
from lite_huatuo.run_dir import STAGES, meant

REPORT = "report.json"
SETTINGS = ".settings.json"
_SALT = "salt"
ELSEWHERE = Path("evaluations")  # of what is no run
_FIELDS = {"id", "run", "asked", "options", "shuffled", "right", "reply", "tokens", "stopped", "readings"}


def digest(prompt: str) -> str:
    """Return what tells that a question was asked in the same words, with the same options in the same order."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def row(question: ExamQuestion, *, run: int, asked: str, shuffled: bool, rule: str, **reply: Any) -> dict[str, Any]:
    """Return the row of one reply; `reply` holds reply, tokens, stopped, and failure where there is no reply."""
    made = {
        "id": question.id,
        "run": run,
        "asked": asked,
        "options": question.options,
        "shuffled": shuffled,
        "right": question.answer_idx,
        **reply,
    }
    return read_again(made, rule)


def read_again(kept: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """Return a row with what today's rules read from its reply; `reading` and `correct` are by the declared one."""
    readings = {name: answers.read(name, kept["reply"], kept["options"]) for name in answers.RULES}
    return {**kept, "readings": readings, "reading": readings[rule], "correct": readings[rule] == kept["right"]}


class Predictions:
    """The predictions of one benchmark in a folder; `open` refuses those that were made with other settings.

    `salt` is drawn when they are begun, and stays theirs however often they are gone on with.
    """

    def __init__(self, folder: Path, benchmark: str) -> None:
        self.path = folder / f"{benchmark}.jsonl"
        self._settings = folder / f"{benchmark}{SETTINGS}"
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.salt = ""

    def open(self, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Begin, or go on with what is kept. `settings` are all that changes a reply; `overwrite` forgets what was."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self.path.unlink(missing_ok=True)
                self._settings.unlink(missing_ok=True)
            before = self._before()
            if self.path.exists():
                self._same(before, settings)
            elif before is None or differences(before, settings):  # else a kill came before the first reply was kept
                before = {**settings, _SALT: secrets.token_hex(8)}
                jsonl.write_text(self._settings, json.dumps(before, indent=2, ensure_ascii=False) + "\n")
            self.salt = str((before or {}).get(_SALT, ""))
        except OSError as error:
            raise RecordError(f"{self.path.parent}: cannot be written ({error.strerror})") from None
        jsonl.drop_torn_tail(self.path)
        self.rows = {(kept["id"], kept["run"]): kept for kept in read(self.path)} if self.path.exists() else {}

    def has(self, id: str, run: int, asked: str) -> bool:
        """True where the reply is kept; RecordError where the question was another one then."""
        kept = self.rows.get((id, run))
        if kept is not None and kept["asked"] != asked:
            raise RecordError(
                f"{self.path}: question {id} was asked with another text or other options; begin again with --overwrite"
            )
        return kept is not None

    def keep(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows; they are on the disk when this returns."""
        written = [jsonl.sealed(kept) for kept in rows]
        jsonl.append(self.path, written)
        self.rows.update({(kept["id"], kept["run"]): kept for kept in written})

    def read_again(self, rule: str) -> None:
        """Read every kept reply with today's rules; the file is rewritten where that changes anything."""
        fresh = {key: jsonl.sealed(read_again(kept, rule)) for key, kept in self.rows.items()}
        if fresh != self.rows:
            self.rows = fresh
            jsonl.write(self.path, fresh.values())

    def _before(self) -> dict[str, Any] | None:
        """Return the settings that stand beside the predictions, None where none can be read."""
        try:
            return dict(json.loads(self._settings.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _same(self, before: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
        """Refuse kept predictions that were made with other settings, and tell which."""
        if before is None and not self._settings.exists():
            raise RecordError(
                f"{self.path}: stands without {self._settings.name}, so nobody knows how it was made; "
                "begin again with --overwrite"
            )
        if before is None:
            raise RecordError(f"{self._settings}: damaged; begin again with --overwrite")
        differ = [f"{key}: {old} → {new}" for key, old, new in differences(before, settings)]
        if differ:
            raise RecordError(
                f"{self.path}: holds predictions made with other settings ({'; '.join(differ)}); give the same ones, "
                "another folder with --to, or --overwrite to begin again"
            )


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (name, before, after) of every setting that differs; a salt is none."""
    names = sorted({*before, *after} - {_SALT})
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a predictions file; a row that is none is told with its place."""
    found = []
    for where, kept in jsonl.iter_sealed(path):
        missing = _FIELDS - set(kept)
        if missing:
            raise RecordError(f"{where}: no prediction: {', '.join(sorted(missing))} missing; begin with --overwrite")
        found.append(kept)
    return found


def read_settings(folder: Path, benchmark: str) -> dict[str, Any]:
    """Return the settings beside a benchmark's predictions."""
    path = folder / f"{benchmark}{SETTINGS}"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); evaluate again with --overwrite") from None
    return dict(settings)


def read_report(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the summaries in a folder by benchmark; of a folder without any {}."""
    path = folder / REPORT
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: damaged ({error}); evaluate again") from None
    if not isinstance(found, dict) or not all(isinstance(summary, dict) for summary in found.values()):
        raise RecordError(f"{path}: damaged (expected an object of summaries); evaluate again")
    return found


def run_of(target: str) -> tuple[Path, str | None] | None:
    """Return (run folder, stage or None) where a target names a run or one of its stages, such as runs/demo/sft."""
    path = Path(target)
    if (path / "recipe.yaml").is_file():
        return path, None
    if path.name in STAGES and (path.parent / "recipe.yaml").is_file():
        return path.parent, path.name
    return None


def folder_of(target: str) -> Path:
    """Return where the evaluations of a target stand: a run's newest that is there, unless its stage is named."""
    found = run_of(target)
    if found is None:
        path = Path(target)
        if path.is_dir() and any(path.glob(f"*{SETTINGS}")):
            return path
        return ELSEWHERE / slug(target)
    run, stage = found
    there = [name for name in ("ppo", "sft", "base") if (run / "eval" / name / REPORT).exists()]
    return run / "eval" / (stage or (there[0] if there else "ppo"))


def evaluated(target: str) -> Path:
    """Return `folder_of` a target; RecordError where neither it nor an evaluation of it exists."""
    folder = folder_of(target)
    if not folder.exists() and not Path(target).exists():
        raise RecordError(f"{target}{meant(Path(target))}: no evaluation here; run `lite-huatuo eval` on it first")
    return folder


def slug(target: str) -> str:
    """Return a folder name for a target that is no run: a Hub id, an exported folder, an address."""
    kept = "".join(character if character.isalnum() or character in "-_." else "-" for character in target)
    return kept.strip("-.") or "target"
