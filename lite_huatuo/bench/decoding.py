"""Writing replies by the product's own decoder: tokens a second and memory beside `plan`, by rows and by length."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lite_huatuo.bench import assembled, measure
from lite_huatuo.bench.place import Place
from lite_huatuo.training import decoding
from lite_huatuo.training.ppo_stage import Stage


class Clock:
    """Chooses tokens as sampling does, but never one that ends a reply, and notes when it was asked."""

    def __init__(self, temperature: float, stops: Sequence[int]) -> None:
        self._choose, self._stops = decoding.sampler(temperature), torch.tensor(stops, device=measure.device())
        self.read = 0.0  # when the last query had been read
        self.steps: list[float] = []  # when each later step was done

    def __call__(self, logprobs: Tensor, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Return the next tokens (n,)."""
        tokens = self._choose(logprobs, rows, positions)
        measure.sync()
        now = time.perf_counter()
        if 0 in positions:
            self.read, self.steps = now, []
        else:
            self.steps.append(now)
        return torch.where(torch.isin(tokens, self._stops), assembled.FIRST, tokens)


def run(place: Place) -> dict[str, Any]:
    """Write with each number of rows after queries of the recipe's limit, and once where the longest reply ends."""
    stage, recipe, steps = assembled.stage(place), place.recipe(), place.sized.steps
    query, reply = recipe.data.max_query_length, recipe.ppo.rollout.max_reply_length
    cases = [(rows, query) for rows in place.sized.rows]
    cases.append((place.sized.rows[1], query + reply - steps))
    figures: dict[str, Any] = {"memory": [], "speed": []}
    for rows, length in cases:
        name = f"{rows} rows at {length} tokens"
        try:
            speed, memory = _measured(place, stage, rows, length)
        except torch.OutOfMemoryError:
            figures["speed"].append({"phase": "writing", "what": name, "failed": "out of memory"})
            continue
        figures["speed"] += speed
        figures["memory"].append({**memory, "phase": f"rollout, {name}"})
    figures["holds"] = {"some rows fit": bool(figures["memory"])}
    return figures


def _measured(place: Place, stage: Stage, rows: int, length: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the lines of speed and of memory for some rows after queries of one length."""
    chance, steps = random.Random(0), place.sized.steps
    queries = [assembled.text(chance, length) for _ in range(rows)]
    temperature = stage.settings.rollout.temperature
    clock = Clock(temperature, stage.shared.tokenizer.stop_ids)
    without = () if assembled.steps_taken(stage) else ("optimiser",)
    measure.clean()
    start = time.perf_counter()
    with stage.shared.using("actor"):
        decoding.decode(
            stage.shared, queries, max_reply_length=steps, batch_size=rows, temperature=temperature, choose=clock
        )
    measure.sync()
    recipe = place.recipe(
        f"data.max_query_length={length}", f"ppo.rollout.max_reply_length={steps}", f"ppo.rollout.batch_size={rows}",
        f"ppo.rollout.episodes={rows}", f"eval.batch_size={rows}", f"eval.max_reply_length={steps}",
    )  # fmt: skip
    memory = measure.memory("rollout", place.predicted(recipe, "rollout", without=without))
    step = statistics.median(b - a for a, b in itertools.pairwise([clock.read, *clock.steps]))
    what = f"{rows} rows at {length} tokens"
    reading = {"phase": "reading", "what": what, "tokens_per_second": round(rows * length / (clock.read - start))}
    writing = {"phase": "writing", "what": what, "tokens_per_second": round(rows / step, 1), "ms": round(step * 1e3, 1)}
    return [reading, writing], memory
