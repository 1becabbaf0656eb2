"""Replies of a model behind an endpoint, at several temperatures, for a verifier to learn from."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from lite_huatuo.data.asking import Request
from lite_huatuo.data.client import Teacher
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.profile import Profile
from lite_huatuo.errors import RecipeError, ReplyError
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.verifier import judge_room
from lite_huatuo.verifier.build import Reply, final_response

STEP = "verifier.sample"


def sample(
    profile: Profile,
    store: Path,
    problems: Sequence[VerifiableProblem],
    *,
    temperatures: Sequence[float],
    samples: int,
    max_tokens: int,
    skipped: Counter[str],
    budget: float | None = None,
    retries: Retries | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Reply]:
    """Ask every problem's question `samples` times at each temperature; replies are kept in the store.

    A question without a usable reply is counted in `skipped` with the reason. APIError where nothing more can be asked.
    """
    if not profile.temperature:
        raise RecipeError(f"{profile.name}: takes no temperature (temperature: false); sample from another model")
    room, teacher = judge_room.enter(store, profile, budget, retries)
    wanted = [
        (problem, temperature, number)
        for problem in problems
        for temperature in temperatures
        for number in range(samples)
    ]

    async def one(teacher: Teacher, problem: VerifiableProblem, temperature: float, number: int) -> Reply | None:
        request = Request(STEP, problem.question, max_tokens, temperature=temperature, sample=f"sample {number}")
        try:
            response = final_response(await teacher.ask(request))
        except ReplyError as error:
            skipped[str(error)] += 1
            return None
        finally:
            advance(1)
        if response is None:
            skipped["no final response"] += 1
            return None
        return Reply(problem, response, temperature)

    async def everything() -> list[Reply]:
        found = await asyncio.gather(*(one(teacher, *each) for each in wanted))
        return [reply for reply in found if reply is not None]

    try:
        return room.run(everything())
    finally:
        judge_room.leave(room, teacher)
