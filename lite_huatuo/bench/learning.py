"""Scoring and learning at the recipe's longest rows: tokens a second and memory beside `plan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from lite_huatuo.bench import assembled, measure
from lite_huatuo.bench.place import Place
from lite_huatuo.training import rollout
from lite_huatuo.training.ppo_stage import Stage
from lite_huatuo.training.rollout import Rollout

APART = 0.01  # nats, between the log-probabilities of two equal adapters


def run(place: Place) -> dict[str, Any]:
    """Score and learn with each number of episodes; actor and reference are equal until the first step."""
    stage, recipe = assembled.stage(place), place.recipe()
    lengths = recipe.data.max_query_length, recipe.ppo.rollout.max_reply_length
    data = score(stage, 1, *lengths)  # what a first pass sets up does not count
    apart = float((data.logprobs - data.reference).abs().max())
    assembled.learn(stage, data, actor=True)
    figures: dict[str, Any] = {"memory": [], "speed": [], "actor_beside_reference": apart}
    for count in place.sized.episodes:
        _measured(place, stage, count, lengths, figures)
    states = [state for optimizer in stage.learner.optimizers.values() for state in optimizer.state.values()]
    figures["optimizer_states"], figures["optimizer_states_8_bit"] = len(states), sum(map(_eight_bit, states))
    figures["holds"] = {"a fresh actor is the reference": apart <= (APART if measure.cuda() else 0.0)}
    return figures


def score(stage: Stage, count: int, query: int, reply: int) -> Rollout:
    """Return the scored rollout of some episodes of one length."""
    settings = stage.settings
    return rollout.scored(
        rollout.measure(
            stage.shared,
            stage.learner.head,
            assembled.episodes(count, query, reply),
            temperature=settings.rollout.temperature,
            microbatch_tokens=settings.microbatch_tokens,
            trunk_layers=stage.learner.coefficients.trunk_layers,
        )
    )


def _measured(place: Place, stage: Stage, count: int, lengths: tuple[int, int], figures: dict[str, Any]) -> None:
    """Add the lines of one number of episodes. Scoring makes three passes (with the reference), learning two."""
    tokens, name = count * sum(lengths), f"{count} rows of {sum(lengths)} tokens"
    recipe = place.recipe(f"ppo.rollout.episodes={count}")
    seen: list[Rollout] = []
    works: dict[str, tuple[Callable[[], Any], str | None]] = {
        "scoring": (lambda: seen.append(score(stage, count, *lengths)), "scoring"),
        "learning, critic": (lambda: assembled.learn(stage, seen[0], actor=False), None),
        "learning": (partial(_learn, stage, seen), "update"),
    }
    for phase, (work, predicted) in works.items():
        measure.clean()
        seconds = measure.seconds(work)
        figures["speed"].append(
            {"phase": phase, "what": name, "tokens_per_second": round(tokens / seconds, 1), "ms": round(seconds * 1e3)}
        )
        if predicted is not None:
            line = measure.memory(f"{predicted}, {name}", place.predicted(recipe, predicted))
            figures["memory"].append(line)


def _learn(stage: Stage, seen: list[Rollout]) -> None:
    assembled.learn(stage, seen[0], actor=True)


def _eight_bit(state: dict[str, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) and value.dtype == torch.uint8 for value in state.values())
