"""The jobs of the data pipeline that ask models: what is done for one record, and how a job of them is run.

exam.jsonl -> filter -> exam.jsonl -> reformat -> problems.jsonl -> search -> trajectories.jsonl and sft.jsonl
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lite_huatuo import jsonl
from lite_huatuo.data import problems, rewrite, rules, search, side_files, sources
from lite_huatuo.data.asking import Ask
from lite_huatuo.data.runner import Rows, Work
from lite_huatuo.data.search import Verify
from lite_huatuo.data.side_files import DROPPED, FAILED, OUTPUT
from lite_huatuo.errors import RecordError, ReplyError
from lite_huatuo.prompts.render import VERSION
from lite_huatuo.records import GROUND_TRUTH, ExamQuestion, Trajectory, VerifiableProblem, problem_from_row, to_row

SFT = "sft"
Record = TypeVar("Record", ExamQuestion, VerifiableProblem)


@dataclass(frozen=True)
class Candidate:
    """An exam question on its way through the filter; `reason` where a rule has dropped it already."""

    id: str
    exam: ExamQuestion
    reason: str | None


def candidates(exams: Iterable[ExamQuestion], *, min_length: int) -> Iterator[Candidate]:
    """Yield the questions with what the rules say. Duplicates are told by the whole stream: cut it afterwards."""
    for exam, reason in rules.apply(exams, min_length=min_length):
        yield Candidate(exam.id, exam, reason)


def filter_work(solvers: Sequence[Ask], judge: Ask | None) -> Work[Candidate]:
    """Return the work of the filter: rules, then small models, then the teacher; the first that objects drops it.

    A question is too easy where every solver answers it right, so the solvers are asked one after another and the first
    wrong answer keeps it.
    """

    async def work(candidate: Candidate) -> Rows:
        exam = candidate.exam
        if candidate.reason is not None:
            return _dropped(exam, rules.STEP, candidate.reason)
        if solvers and await _all_solve(exam, solvers):
            return _dropped(exam, "difficulty", f"too easy: {len(solvers)} of {len(solvers)} small models are right")
        reason = await problems.judge(exam, judge) if judge is not None else None
        return _dropped(exam, "judge", reason) if reason else {OUTPUT: [to_row(exam)]}

    return work


def reformat_work(teacher: Ask) -> Work[ExamQuestion]:
    """Return the work of reformatting: an open question with its ground truth, or the reason why there is none."""

    async def work(exam: ExamQuestion) -> Rows:
        made = await problems.reformat(exam, teacher)
        return _dropped(exam, "reformat", made) if isinstance(made, str) else {OUTPUT: [to_row(made)]}

    return work


def search_work(
    teacher: Ask, verify: Verify, *, model: str, rounds: int, attempts: int, seed: int, label_guided: bool
) -> Work[VerifiableProblem]:
    """Return the work of the search: the trajectory always, and the SFT example where it is solved and rewritten."""

    async def work(problem: VerifiableProblem) -> Rows:
        trajectory = await search.search(
            problem,
            ask=teacher,
            verify=verify,
            teacher=model,
            rounds=rounds,
            attempts=attempts,
            seed=seed,
            label_guided=label_guided,
        )
        rows: Rows = {OUTPUT: [to_row(trajectory)]}
        if not trajectory.solved:
            return rows
        try:
            return {**rows, SFT: [to_row(await _rewritten(trajectory, teacher, verify))]}
        except ReplyError as error:
            return {**rows, FAILED: [{"id": problem.id, "step": "rewrite", "reason": str(error)}]}

    return work


def outputs(to: Path, *names: str) -> dict[str, Path]:
    """Return where a job writes: the output, side files by name, and what failed."""
    return {name: side_files.side_path(to, name) for name in (OUTPUT, *names, FAILED)}


def exams(source: str) -> Iterator[ExamQuestion]:
    """Yield the exam questions of a source one at a time; ids are unique."""
    return _unique(_exam_rows(source))


def open_problems(source: str) -> Iterator[VerifiableProblem]:
    """Yield the verifiable problems of a source one at a time; ids are unique."""
    return _unique(problem_from_row(row, where) for where, row in _rows(source))


def ids(source: str) -> Iterator[str]:
    """Yield the ids of a job's input, exam questions or problems, in its order."""
    _, first = next(iter(_rows(source)))
    open_questions = any(name in first for name in GROUND_TRUTH)
    yield from (record.id for record in (open_problems(source) if open_questions else exams(source)))


def fingerprint(job: str, source: str, **settings: Any) -> dict[str, Any]:
    """Return what makes a job the same job: its input's content, its settings, the version of the prompts."""
    digest = hashlib.sha256()
    for _, row in sources.rows(source):
        digest.update(jsonl.dumps(dict(row)).encode())
    return {"job": job, "input": digest.hexdigest(), "prompts": VERSION, **settings}


def _rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a source, which must have one."""
    empty = True
    for where, row in sources.rows(source):
        empty = False
        yield where, row
    if empty:
        raise RecordError(f"{source}: holds no rows")


def _exam_rows(source: str) -> Iterator[ExamQuestion]:
    """Yield a source's exam questions; a row that cannot be read is an error."""
    empty = True
    for _, _, exam in sources.iter_exams(source):
        empty = False
        if isinstance(exam, RecordError):
            raise exam
        yield exam
    if empty:
        raise RecordError(f"{source}: holds no rows")


def _unique(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records; an id that comes again is an error, since work and parts of a job are told by ids."""
    seen: set[bytes] = set()  # 16 bytes for each, so that memory hardly grows
    for record in records:
        digest = hashlib.blake2b(record.id.encode(), digest_size=16).digest()
        if digest in seen:
            raise RecordError(f"id {record.id!r} comes twice; ids must be unique")
        seen.add(digest)
        yield record


async def _all_solve(exam: ExamQuestion, solvers: Sequence[Ask]) -> bool:
    for number, ask in enumerate(solvers):
        if not await problems.solve(exam, ask, sample=f"solver {number + 1}"):
            return False
    return True


async def _rewritten(trajectory: Trajectory, teacher: Ask, verify: Verify) -> Any:
    return await rewrite.rewrite(trajectory, ask=teacher, verify=verify)


def _dropped(exam: ExamQuestion, step: str, reason: str) -> Rows:
    return {DROPPED: [{"id": exam.id, "step": step, "reason": reason, "record": to_row(exam)}]}
