"""Search for a chain of thought that arrives at the ground truth.

Each attempt begins with a first chain. While its conclusion is wrong, one of four strategies is drawn and the teacher
goes on; after `rounds` strategies the attempt is given up and another begins. Every round is recorded, wrong ones too.
What is drawn depends on the seed, the problem's id and the attempt alone, and on nothing else that runs.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lite_huatuo.data.asking import Ask, Request, ask_json
from lite_huatuo.errors import ReplyError
from lite_huatuo.prompts.render import render
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.records import Round, Trajectory, VerifiableProblem
from lite_huatuo.verifier import exact
from lite_huatuo.verifier.base import Item

FIRST, BACKTRACKING, LABEL_GUIDED = "first", "backtracking", "label-guided"
STRATEGIES = (BACKTRACKING, "exploring", "verification", "correction")
THOUGHT_TOKENS, VERIFY_TOKENS = 5000, 1000  # the most a reply may hold; hidden reasoning counts with some models

# (problem, answer, sample) -> is the answer right? ReplyError where that could not be judged.
Verify = Callable[[VerifiableProblem, str, str], Awaitable[bool]]


def teacher_verify(ask: Ask, *, step: str = "search.verify") -> Verify:
    """Return a verifier that asks the teacher whether an answer means the ground truth."""

    async def verify(problem: VerifiableProblem, answer: str, sample: str = "") -> bool:
        prompt = render(
            "verify", problem.language, question=problem.question, ground_truth=problem.ground_truth, answer=answer
        )
        request = Request(step, prompt, VERIFY_TOKENS, SCHEMAS["verify"], temperature=0.0, sample=sample)
        return await ask_json(ask, request, lambda reply: bool(reply["correct"]))

    return verify


def exact_verify() -> Verify:
    """Return a verifier that judges by rule, without a model: stricter, since it compares words and not meanings."""

    async def verify(problem: VerifiableProblem, answer: str, sample: str = "") -> bool:
        verdict = exact.judge(Item(problem.question, answer, problem.ground_truth))
        if verdict.correct is None:
            raise ReplyError(f"problem {problem.id} cannot be judged: {verdict.failure}")
        return verdict.correct

    return verify


async def search(
    problem: VerifiableProblem,
    *,
    ask: Ask,
    verify: Verify,
    teacher: str,
    rounds: int = 3,
    attempts: int = 3,
    seed: int = 0,
    label_guided: bool = False,
) -> Trajectory:
    """Return the trajectory of one problem; its last round is the right one where it is solved.

    At most `attempts` first chains are written, each followed by at most `rounds` strategies. With `label_guided`, the
    last attempt gets one more round when all have failed: the teacher is told the ground truth, and its conclusion is
    verified like any other. ReplyError where a reply could not be had or read.
    """
    assert attempts >= 1, "a search needs an attempt"
    recorded: list[list[Round]] = []
    for number in range(1, attempts + 1):
        attempt = _Attempt(problem, ask, verify, teacher, number, random.Random(f"{seed}/{problem.id}/{number}"))
        recorded.append(attempt.recorded)
        await attempt.add(FIRST)
        while not attempt.solved and len(attempt.recorded) <= rounds:
            await attempt.go_on()
        if attempt.solved:
            return Trajectory(problem.id, problem, recorded, solved=True)
    if not label_guided:
        return Trajectory(problem.id, problem, recorded, solved=False)
    await attempt.add(LABEL_GUIDED)
    return Trajectory(problem.id, problem, recorded, solved=attempt.solved, label_guided=True)


def thoughts_text(rounds: Sequence[tuple[int, Round]], language: str) -> str:
    """Return numbered rounds as the prompts show them."""
    shown = []
    for number, entry in rounds:
        steps = "\n".join(render("step", language, **step) for step in entry.steps)
        values = {"number": str(number), "steps": steps, "conclusion": entry.conclusion}
        target = backtracked_to(entry)
        if target is None:
            shown.append(render("round", language, **values))
        else:
            shown.append(render("round_back", language, **values, target=str(target)))
    return "\n\n".join(shown)


def backtracked_to(entry: Round) -> int | None:
    """Return the round, from 1, that a round of backtracking goes on from ("backtracking:1" → 1), None for others."""
    name, _, target = entry.strategy.partition(":")
    return int(target) if name == BACKTRACKING else None


class _Attempt:
    """One attempt: what was recorded, and the path, which is what is left of it after going back."""

    def __init__(
        self, problem: VerifiableProblem, ask: Ask, verify: Verify, teacher: str, number: int, draw: random.Random
    ) -> None:
        self.problem, self.ask, self.verify, self.teacher = problem, ask, verify, teacher
        self.number, self.draw = number, draw
        self.recorded: list[Round] = []
        self.path: list[tuple[int, Round]] = []  # (number in `recorded` from 1, round)

    @property
    def solved(self) -> bool:
        """True where the last conclusion is right."""
        return bool(self.recorded[-1].verdict)

    async def go_on(self) -> None:
        """Draw a strategy and add its round. The first one cannot go back: there is nothing before the first chain."""
        strategy = self.draw.choice([name for name in STRATEGIES if name != BACKTRACKING or len(self.path) > 1])
        if strategy != BACKTRACKING:
            await self.add(strategy)
            return
        kept = self.draw.randint(1, len(self.path) - 1)
        left, self.path = self.path[kept:], self.path[:kept]
        wrong = "\n".join(entry.conclusion for _, entry in left)
        await self.add(f"{BACKTRACKING}:{self.path[-1][0]}", wrong=wrong)

    async def add(self, strategy: str, **values: str) -> None:
        """Ask for a round, have its conclusion verified, and record it."""
        problem, name = self.problem, strategy.partition(":")[0].replace("-", "_")
        values["question"] = problem.question
        if strategy != FIRST:
            values["thoughts"] = thoughts_text(self.path, problem.language)
        if strategy == LABEL_GUIDED:
            values["ground_truth"] = problem.ground_truth
        sample = f"attempt {self.number} round {len(self.recorded)}"
        prompt = render(name, problem.language, **values)
        request = Request(f"search.{name}", prompt, THOUGHT_TOKENS, SCHEMAS[name], sample=sample)
        steps, conclusion = await ask_json(self.ask, request, _read_thoughts)
        verdict = await self.verify(problem, conclusion, "")
        entry = Round(strategy, steps, conclusion, verdict, self.teacher)
        self.recorded.append(entry)
        self.path.append((len(self.recorded), entry))


def _read_thoughts(reply: dict[str, Any]) -> tuple[list[dict[str, str]], str]:
    """Return (steps, conclusion); ReplyError where a step or the conclusion says nothing."""
    steps, conclusion = reply["steps"], reply["conclusion"].strip()
    if not steps or not all(_says(step["content"]) for step in steps):
        raise ReplyError("a chain of thought needs steps, and each step a content")
    if not _says(conclusion):
        raise ReplyError("the chain of thought has no conclusion")
    return steps, conclusion


def _says(text: str) -> bool:
    """True where there is a letter or digit in the text."""
    return any(character.isalnum() for character in text)
