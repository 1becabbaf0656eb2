"""What `plan` tells of calls and money: judges that are asked while PPO runs, and a teacher who would make the data."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lite_huatuo.planning.work import Work
    from lite_huatuo.recipe import Recipe, VerifierSection

VERDICT_TOKENS = 10  # what a judge writes, hidden reasoning apart
SAMPLE = 20  # problems the search is rehearsed on


@dataclass(frozen=True)
class Bill:
    """Calls of one model and their price, an estimate."""

    role: str
    model: str
    calls: float
    input_tokens: float
    output_tokens: float
    dollars: float


def bills(recipe: Recipe, work: Work, examples: int, teacher: str | None) -> list[Bill]:
    """Return the bills of the recipe's judges behind an API and of a teacher (a profile) for `examples` examples."""
    heldout = recipe.data.heldout_limit or 0
    selection = recipe.ppo.selection_problems * (1 + work.updates // recipe.ppo.eval_every)
    replies = work.updates * recipe.ppo.rollout.episodes + selection + 3 * heldout
    watched = work.updates * min(recipe.ppo.watch.episodes, recipe.ppo.rollout.episodes)
    found = [_judged("judge", section, replies) for section in _asked(recipe.verifier)]
    if recipe.ppo.watch.verifier is not None:
        found += [_judged("second judge", section, watched) for section in _asked(recipe.ppo.watch.verifier)]
    if teacher is not None:
        found.append(_taught(teacher, examples))
    return found


def _asked(section: VerifierSection) -> Iterator[VerifierSection]:
    """Yield the sections that ask a model behind an API, the section itself or members of it."""
    if section.kind == "api":
        yield section
    for member in section.members:
        yield from _asked(member)


def _judged(role: str, section: VerifierSection, calls: int) -> Bill:
    """Price so many verdicts, on a question of the shipped suite and a response of typical length."""
    from lite_huatuo.data import profile
    from lite_huatuo.planning import cost
    from lite_huatuo.prompts.render import render
    from lite_huatuo.verifier import suite
    from lite_huatuo.verifier.api import TEMPLATES

    assert section.profile is not None, "checked with the recipe"
    model, item = profile.load(section.profile), suite.load()[0].item
    values = {"question": item.question, "ground_truth": item.ground_truth, "final_response": ""}
    words = {"right": "True", "wrong": "False"} if section.form == "word" else {}
    prompt = render(TEMPLATES[section.form], "en", **values, **words)
    read = cost.count_tokens(prompt) + cost.REPLY_TOKENS["rewrite.response"]
    line = cost.Line(calls, calls * read, calls * (VERDICT_TOKENS + cost.REASONING * model.reasoning_tokens))
    return Bill(role, model.model, line.calls, line.input, line.output, line.dollars(model))


def _taught(name: str, examples: int) -> Bill:
    """Price the search that makes so many examples, rehearsed on shipped problems (see `data search --dry-run`)."""
    from lite_huatuo.data import pipeline, profile
    from lite_huatuo.data import search as searching
    from lite_huatuo.planning import cost

    model = cost.Rehearsal(profile.load(name))
    problems, _ = cost.spread(lambda: pipeline.open_problems("shipped:problems_en"), SAMPLE)
    work = pipeline.search_work(
        model.ask, searching.teacher_verify(model.ask), model=model.profile.model, rounds=3, attempts=3, seed=42,
        label_guided=False,
    )  # fmt: skip
    asyncio.run(cost.rehearse(problems, work, [model]))
    lines = cost.scaled(model.lines, examples / len(problems)).values()
    total = cost.Line(*(sum(getattr(line, key) for line in lines) for key in ("calls", "input", "output")))
    dollars = total.dollars(model.profile)
    return Bill("teacher", model.profile.model, total.calls, total.input, total.output, dollars)
