"""What a shipped recipe needs of a machine, in four numbers, from its plan."""

from __future__ import annotations

from dataclasses import dataclass

from lite_huatuo.errors import BackendError
from lite_huatuo.planning import launch
from lite_huatuo.planning import plan as plans
from lite_huatuo.planning.cards import Card
from lite_huatuo.planning.models import Shape
from lite_huatuo.planning.work import WEIGHT_BYTES
from lite_huatuo.recipe import Launch, Recipe

# Operations of PPO that a CPU of a few cores does in some days; beyond, a recipe is not for CPUs.
CPU_OPERATIONS = 1e16


@dataclass(frozen=True)
class Need:
    """Bytes: `each` on every one of `processes` cards, `gpu` on one that has all to itself, `spread` on every one of
    the machine's cards where they share the base (fsdp2; None where the recipe forbids it), `cpu` in main memory.

    `on_cpu`: training on a CPU takes days at most.
    """

    processes: int
    each: int
    gpu: int
    spread: int | None
    cpu: int
    download: int
    on_cpu: bool


def need(recipe: Recipe, *, cards: int) -> Need:
    """Return what a recipe needs on a machine with so many cards."""
    shape, _ = plans.shape_of(recipe)
    tokens = recipe.ppo.total_episodes * recipe.ppo.epochs * recipe.ppo.rollout.max_reply_length
    return Need(
        processes=recipe.launch.processes,
        each=plans.make(recipe, shape, None, cards=recipe.launch.processes).peak.total,
        gpu=plans.make(recipe, shape, None).peak.total,
        spread=_spread(recipe, shape, cards),
        cpu=plans.make(recipe, shape, Card("cpu", 0, gpu=False)).peak.total,
        download=WEIGHT_BYTES * shape.parameters,
        on_cpu=6 * shape.parameters * tokens <= CPU_OPERATIONS,
    )


def _spread(recipe: Recipe, shape: Shape, cards: int) -> int | None:
    """Return the peak on each of so many cards that share the base by fsdp2, None where they cannot."""
    shared = recipe.model_copy(update={"launch": Launch(processes=cards, strategy="fsdp2")})
    try:
        launch.check(shared, cards)
    except BackendError:
        return None
    return plans.make(shared, shape, None, cards=cards).peak.total
