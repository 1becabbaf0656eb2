"""What several checks work with: the stage of PPO on the random base, as training assembles it, once."""

from __future__ import annotations

import random
from typing import Any

import torch

from lite_huatuo.bench import measure
from lite_huatuo.bench.place import Place
from lite_huatuo.models import backends
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.recipe import Recipe
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo_math, ppo_stage
from lite_huatuo.training.ppo_stage import Stage
from lite_huatuo.training.progress import Quiet
from lite_huatuo.training.rollout import Episode, Rollout

LEARNED = 1e-3  # the spread of an adapter's B: as after some training
FIRST, LAST = 5, 3999  # token ids of random texts: none of the tokenizer's special ones


def make_start(place: Place, recipe: Recipe, loaded: LoadedBase) -> None:
    """Write the adapter that stands for one that was trained: its B is not zero."""
    torch.manual_seed(1)
    fresh = SharedBase.fresh(loaded, "start", **recipe.adapter.model_dump())
    with torch.no_grad():
        for name, parameter in fresh.parameters("start").items():
            if "lora_B" in name:
                parameter.normal_(std=LEARNED)
    place.start.parent.mkdir(parents=True, exist_ok=True)
    fresh.save("start", place.start)


def stage(place: Place) -> Stage:
    """Return the stage; actor and critic begin where the reference is."""
    recipe = place.recipe()
    if not place.start.exists():
        make_start(place, recipe, backends.load(**recipe.base.model_dump()))
        measure.clean()
    if place.stage is None:
        run = RunDir.create(place.work / "probe", recipe.model_dump(), overwrite=True)
        place.stage = ppo_stage.assemble(recipe, run, Quiet(), place.start)
    for adapter in ("actor", "critic"):
        place.stage.shared.load(adapter, place.start)
    return place.stage


def release(place: Place) -> None:
    """Drop the stage and its base."""
    place.stage = None
    measure.clean()


def steps_taken(stage: Stage) -> bool:
    """Whether the optimisers hold states: they make them with their first step."""
    return any(optimizer.state for optimizer in stage.learner.optimizers.values())


def text(chance: random.Random, length: int) -> list[int]:
    """Return random token ids."""
    return [chance.randrange(FIRST, LAST) for _ in range(length)]


def episodes(count: int, query: int, reply: int) -> list[Episode]:
    """Return episodes of the given lengths, with scores of all three kinds."""
    chance, problem = random.Random(1), VerifiableProblem(id="x", question="Which?", ground_truth="this")
    return [
        Episode(problem, text(chance, query), text(chance, reply), False, "", score=(0.0, 0.1, 1.0)[number % 3])
        for number in range(count)
    ]


def learn(stage: Stage, data: Rollout, *, actor: bool) -> dict[str, float]:
    """Take one optimizer step of the critic, and with `actor` of the actor, on a scored rollout."""
    settings, mask = stage.settings, data.reply_mask
    rewards = ppo_math.shape_rewards(data.scores, data.logprobs, data.reference, mask, kl_coef=settings.kl_coef)
    terms: dict[str, Any] = {"gamma": settings.gamma, "gae_lambda": settings.gae_lambda}
    advantages = ppo_math.gae(rewards, data.values, mask, **terms)
    return stage.learner.learn(
        data,
        ppo_math.masked_whiten(advantages, mask),
        data.values + advantages,
        epochs=1,
        minibatches=1,
        target_kl=None,
        train_actor=actor,
        factors=[1.0],
    )
