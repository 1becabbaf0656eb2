"""Replies of a run's own student, at several temperatures, for a verifier to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from lite_huatuo import recipe as recipes
from lite_huatuo.models import run_base
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.planning import row_count
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import inputs, rollout
from lite_huatuo.training.progress import Progress
from lite_huatuo.verifier.build import Reply, final_response


def sample(
    run: RunDir,
    problems: Sequence[VerifiableProblem],
    *,
    temperatures: Sequence[float],
    samples: int,
    seed: int,
    skipped: Counter[str],
    progress: Progress,
) -> list[Reply]:
    """Have the run's newest actor answer every problem `samples` times at each temperature; 0 is greedy, once.

    Replies that were cut at the recipe's limit or have no final response are counted in `skipped`, as are problems
    that are too long to be asked. The same seed gives the same replies.
    """
    recipe = recipes.check(run.recipe(), str(run.path / "recipe.yaml"))
    loaded = run_base.load(run, **recipe.base.model_dump())
    shared = SharedBase.from_adapters(loaded, {"actor": run.actor()}, ())
    asked = inputs.askable(list(problems), shared.tokenizer, recipe.data.max_query_length)
    skipped["too long to be asked"] += len(problems) - len(asked)
    torch.manual_seed(seed)
    replies, at_once = [], recipe.rollout_rows(row_count.choose(recipe, shared.causal))
    progress.start("sample the run", len(asked) * sum(samples if t else 1 for t in temperatures))
    for temperature in temperatures:
        repeated = [problem for problem in asked for _ in range(samples if temperature else 1)]
        with shared.using("actor"):
            episodes = rollout.generate(
                shared,
                repeated,
                [shared.tokenizer.query(problem.question) for problem in repeated],
                max_reply_length=recipe.ppo.rollout.max_reply_length,
                batch_size=at_once,
                temperature=temperature or None,
                on_episode=lambda place, episode: progress.advance(1),
            )
        for episode in episodes:
            response = final_response(episode.text) if episode.stopped else None
            if response is None:
                skipped["no final response" if episode.stopped else "cut at the limit"] += 1
            else:
                replies.append(Reply(episode.problem, response, temperature))
    return replies
