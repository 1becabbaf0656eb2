"""From a recipe and its base's config to what each phase takes on a card, and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError, RecipeError
from lite_huatuo.planning import config_file, models, phases
from lite_huatuo.planning.cards import CARDS, Card, find
from lite_huatuo.planning.memory import Numbers, base
from lite_huatuo.planning.models import Shape
from lite_huatuo.planning.phases import Phase, Settings
from lite_huatuo.recipe import Recipe, VerifierSection

GATHERED_A_SECOND = 25e9  # bytes from the other cards: about PCIe 4.0 x16 one way; assumed, not measured
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Plan:
    """The phases of one recipe on one of `cards` equal cards. `export` runs in main memory."""

    shape: Shape
    settings: Settings
    card: Card | None
    cards: int
    phases: list[Phase]
    export: Phase
    notes: list[str]

    @property
    def peak(self) -> Phase:
        """The phase of training with the highest peak."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        """Whether every phase of training fits the card; True where no card was named."""
        return self.card is None or self.peak.total <= self.card.bytes

    @property
    def trunk(self) -> int:
        """Bytes of main memory for the trunk of a rollout."""
        return phases.trunk(self.shape, self.settings)


def shape_of(recipe: Recipe, config: Any = None) -> tuple[Shape, str]:
    """Return the shape of a recipe's base and where its config was found; `config` is a file that comes first."""
    section = recipe.base
    found, where = config_file.find(section.model, fallback=section.fallback, revision=section.revision, file=config)
    return models.from_config(found, where), where


def make(recipe: Recipe, shape: Shape, card: Card | None, *, cards: int = 1) -> Plan:
    """Return the plan of a recipe; without a card that of a GPU of any size."""
    gpu = card is None or card.gpu
    judge, notes = _judge(recipe)
    chosen = settings(recipe, shape, gpu=gpu, judge=judge)
    every = phases.phases(shape, chosen)
    strategy = recipe.launch.strategy
    if not gpu:
        every = [_with_trunk(phase, phases.trunk(shape, chosen)) for phase in every]
    placed = [_placed(phase, shape, card, cards=cards, strategy=strategy, gpu=gpu) for phase in every[:-1]]
    if strategy == "fsdp2" and cards > 1 and gpu:
        size = sum(base(shape, chosen.numbers).values()) / 2**30
        notes.append(f"each of {cards} processes reads the base into main memory first: {cards} × {size:.0f} GiB")
        if card is not None:
            notes.append(_gathering(recipe, shape, chosen, cards, placed))
    export = phases.on_card(every[-1], shape, cards=1, strategy="ddp", gpu=False)
    return Plan(shape, chosen, card, cards, placed, export, notes)


def _placed(phase: Phase, shape: Shape, card: Card | None, *, cards: int, strategy: str, gpu: bool) -> Phase:
    """Return what one card holds in a phase. Sharded layers are held whole through a rollout where the card has room,
    as `models.sharding` decides it by the memory that is free."""
    if phase.name == "rollout" and strategy == "fsdp2" and cards > 1 and gpu and card is not None:
        held = phases.on_card(phase, shape, cards=cards, strategy=strategy, gpu=gpu, held=True)
        if held.total <= card.bytes:
            return held
    return phases.on_card(phase, shape, cards=cards, strategy=strategy, gpu=gpu)


def _gathering(recipe: Recipe, shape: Shape, chosen: Settings, cards: int, placed: list[Phase]) -> str:
    """Say how a rollout gathers sharded layers, and how long that takes where it is once a step."""
    _, weights = phases.layers(base(shape, chosen.numbers), shape)
    if any(phase.name == "rollout" and phase.parts["gathered layers"] == weights for phase in placed):
        return f"each rollout gathers the base's layers once and holds them: {weights / 2**30:.1f} GiB on each card"
    moved, mine = weights * (cards - 1) / cards, -(-chosen.episodes // cards)
    steps = recipe.ppo.updates * -(-mine // chosen.generated) * recipe.ppo.rollout.max_reply_length
    return (
        f"the card has no room to hold the base's layers through a rollout: each step gathers {moved / 2**30:.1f} GiB "
        f"from the other cards, in stage 2 at most {steps * moved / GATHERED_A_SECOND / 3600:.0f} hours at "
        f"{GATHERED_A_SECOND / 1e9:.0f} GB/s (assumed, not measured)"
    )


def settings(recipe: Recipe, shape: Shape, *, gpu: bool, judge: int = 0) -> Settings:
    """Return what memory depends on, as the recipe says it; `judge` is the bytes of a classifier."""
    section, ppo = recipe.base, recipe.ppo
    dtype = section.compute_dtype
    width = WIDTHS[dtype] if dtype != "auto" else 2 if gpu else 4
    limits = recipe.heldout_arguments()
    return Settings(
        gpu=gpu,
        numbers=Numbers(width, section.quantization, section.double_quantization, section.keep_dequantised),
        lora=models.lora(recipe.adapter.rank, recipe.adapter.targets, dora=recipe.adapter.dora),
        max_length=section.max_length,
        query=recipe.data.max_query_length,
        reply=max(ppo.rollout.max_reply_length, limits["max_reply_length"]),
        sft_rows=recipe.sft.microbatch_size,
        sft_optimizer=recipe.sft.optimizer,
        sft_checkpointing=recipe.sft.gradient_checkpointing,
        autocast=gpu and width == 2,
        episodes=ppo.rollout.episodes,
        minibatches=ppo.minibatches,
        generated=max(min(ppo.rollout.batch_size, ppo.rollout.episodes), limits["batch_size"]),
        top_p=ppo.rollout.top_p,
        microbatch_tokens=ppo.microbatch_tokens,
        ppo_optimizer=ppo.optimizer,
        ppo_checkpointing=ppo.gradient_checkpointing,
        trunk_layers=None if ppo.critic.trunk == "own" else min(ppo.critic.layers, shape.layers - 1),
        verifiers=len({judge.adapter for judge in _judges(recipe) if judge.kind == "adapter"}),
        judge=judge,
    )


def fitting(recipe: Recipe, shape: Shape, *, cards: int = 1) -> list[str]:
    """Return the known cards that the recipe fits as it is."""
    return [name for name in CARDS if make(recipe, shape, find(name), cards=cards).fits]


def suggest(recipe: Recipe, shape: Shape, card: Card, *, cards: int = 1) -> list[str] | None:
    """Return the overrides that make a recipe fit, the cheapest in time first; None where none do.

    Each step takes the phase with the highest peak and turns the first knob that still lowers it.
    """
    chosen: dict[str, Any] = {}
    plan = make(recipe, shape, card, cards=cards)
    while not plan.fits:
        for values in _knobs(plan.peak.name, recipe):
            tried = _changed(recipe, values)
            if tried is None:
                continue
            found = make(tried, shape, card, cards=cards)
            if found.peak.total < plan.peak.total or found.peak.name != plan.peak.name:
                recipe, plan = tried, found
                chosen |= values
                break
        else:
            return None
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in chosen.items()]


def _knobs(phase: str, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the values that make a phase smaller, what costs least first; a smaller rank last, it learns less."""
    sft, ppo = recipe.sft, recipe.ppo
    if phase == "SFT":
        yield {"sft.gradient_checkpointing": True}
        yield {"sft.microbatch_size": max(1, sft.microbatch_size // 2)}
        yield {"sft.optimizer": "paged_adamw_8bit"}
    if phase == "rollout":
        rows = max(1, max(min(ppo.rollout.batch_size, ppo.rollout.episodes), recipe.eval.batch_size) // 2)
        batches = {"ppo.rollout.batch_size": ppo.rollout.batch_size, "eval.batch_size": recipe.eval.batch_size}
        yield {key: rows for key, size in batches.items() if size > rows}
    if phase in ("update", "scoring"):
        yield {"ppo.gradient_checkpointing": True}
        yield {"ppo.microbatch_tokens": max(1, ppo.microbatch_tokens // 2)}
    if phase in ("update", "rollout", "scoring"):
        yield {"ppo.optimizer": "paged_adamw_8bit"}
    yield {"base.quantization": "nf4"}
    yield {"base.keep_dequantised": False}
    yield {"adapter.rank": max(4, recipe.adapter.rank // 2)}


def _changed(recipe: Recipe, values: dict[str, Any]) -> Recipe | None:
    """Return the recipe with other values, None where they are its own or not allowed together."""
    tree = recipe.model_dump()
    for path, value in values.items():
        *sections, key = path.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[key] = value
    if tree == recipe.model_dump():
        return None
    try:
        return recipes.check(tree, recipe.name)
    except RecipeError:
        return None


def _judges(recipe: Recipe) -> list[VerifierSection]:
    """Return the recipe's verifiers, members of ensembles too."""
    found: list[VerifierSection] = []
    waiting = [section for section in (recipe.verifier, recipe.ppo.watch.verifier) if section is not None]
    while waiting:
        section = waiting.pop()
        found.append(section)
        waiting += section.members
    return found


def _judge(recipe: Recipe) -> tuple[int, list[str]]:
    """Return the bytes of classifiers that judge on the same device, and notes on those that cannot be counted."""
    total, notes = 0, []
    for section in _judges(recipe):
        if section.kind != "classifier" or section.model is None:
            continue
        try:
            found, where = config_file.find(section.model, revision=section.revision)
            other = models.from_config(found, where)
        except BackendError as error:
            notes.append(f"the classifier that judges is not counted: {error}")
            continue
        total += sum(base(other, Numbers(2, section.quantization)).values())
    return total, notes


def _with_trunk(phase: Phase, size: int) -> Phase:
    """Return the phase with a rollout's trunk, which stands in main memory."""
    if not size or phase.name not in ("scoring", "update"):
        return phase
    return Phase(phase.name, {**phase.parts, "trunk": size}, phase.coming)
