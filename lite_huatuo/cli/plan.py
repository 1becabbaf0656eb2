"""`lite-huatuo plan`: what a recipe takes: memory by phase, steps, tokens, hours, disk, calls and money."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lite_huatuo.cli import terminal
from lite_huatuo.cli.recipes import OVERRIDES

if TYPE_CHECKING:
    from lite_huatuo.cli.plan_money import Bill
    from lite_huatuo.planning.cards import Card
    from lite_huatuo.planning.plan import Plan
    from lite_huatuo.planning.work import Disk, Work
    from lite_huatuo.recipe import Recipe

GIB = 2**30


@click.command("plan")
@click.option("--recipe", "name", required=True, metavar="NAME|FILE", help="A shipped recipe, or a file of yours.")
@click.option("--gpu", metavar="CARD", help="A card (rtx3090, a100, …), a size (24gb), or cpu  [default: which fit]")
@click.option(
    "--gpus",
    type=click.IntRange(1),
    help="Equal cards, shared as launch.strategy says  [default: launch.processes]",
)
@OVERRIDES
@click.option("--config", type=click.Path(path_type=Path), help="The base's config.json, where it cannot be found.")
@click.option("--tokens-per-second", "speed", type=click.FloatRange(0, min_open=True), help="Tell hours at that speed.")
@click.option("--teacher", metavar="PROFILE", help="Price the search that makes as many SFT examples with this model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes in bytes.")
def command(
    name: str,
    gpu: str | None,
    gpus: int | None,
    overrides: tuple[str, ...],
    config: Path | None,
    speed: float | None,
    teacher: str | None,
    as_json: bool,
) -> None:
    """Predict memory by phase, time, disk and money.

    Memory is counted from the base's config, and not measured on a GPU. Where a recipe does not fit, the overrides are
    told that make it fit. Nothing is loaded, and the Hub is asked at most for config.json.

    \b
    lite-huatuo plan --recipe qwen7b --gpu 24gb
    lite-huatuo plan --recipe qwen72b-48gb --gpu a6000 --tokens-per-second 400
    lite-huatuo plan --recipe demo --gpu cpu --json
    """
    from lite_huatuo import recipe as recipes
    from lite_huatuo.cli import plan_money, plan_work
    from lite_huatuo.planning import plan as plans

    recipe = recipes.load(name, overrides)
    shape, where = plans.shape_of(recipe, config)
    card, cards = _card(gpu), gpus or recipe.launch.processes
    plan = plans.make(recipe, shape, card, cards=cards)
    examples, tokens, known = plan_work.examples(recipe)
    work = plan_work.work(recipe, plan, examples, tokens)
    bills = plan_money.bills(recipe, work, examples, teacher)
    told: dict[str, Any] = {
        "recipe": recipe.name,
        "model": recipe.base.model,
        "config": where,
        "measured_on_gpu": False,
        "parameters": shape.parameters,
        "adapter_parameters": plan.settings.lora.parameters(shape),
        "card": None if card is None else card.name,
        "cards": cards,
        "usable": None if card is None else card.bytes,
        "fits": None if card is None else plan.fits,
        "peak": {"phase": plan.peak.name, "bytes": plan.peak.total},
        "phases": {phase.name: {"total": phase.total, **phase.parts} for phase in [*plan.phases, plan.export]},
        "replies_at_once": recipe.rollout_rows(plan.rows),
        "overrides": _overrides(recipe, plan),
        "fitting_cards": plans.fitting(recipe, shape, cards=cards) if card is None or card.gpu else [],
        "main_memory_for_trunk": plan.trunk,
        "work": {**dataclasses.asdict(work), "tokens": work.tokens, "hours": work.hours(speed) if speed else None},
        "disk": dataclasses.asdict(plan_work.disk(recipe, plan)),
        "calls": [dataclasses.asdict(bill) for bill in bills],
        "notes": [*plan.notes, *([known] if known else [])],
    }
    if as_json:
        terminal.say(json.dumps(told, indent=2, ensure_ascii=False))
        return
    lines = _head(told, plan, card) + _table(plan) + [""] + _verdict(told, plan, card) + [_rows(told, recipe, card)]
    terminal.say("\n".join(lines))
    terminal.say("\n".join(_rest(told, work, plan_work.disk(recipe, plan), bills, speed)))


def _card(gpu: str | None) -> Card | None:
    """Return the card that is asked for: of that name, or this machine's main memory."""
    from lite_huatuo.planning import cards, hardware

    if gpu is None:
        return None
    if gpu.strip().lower() == cards.CPU:
        return cards.Card("the CPU", round(hardware.memory().total_gib * GIB), gpu=False)
    return cards.find(gpu)


def _overrides(recipe: Recipe, plan: Plan) -> list[str] | None:
    """Return the overrides that make it fit, [] where it does, None where none do."""
    from lite_huatuo.planning import plan as plans

    if plan.card is None or plan.fits:
        return []
    return plans.suggest(recipe, plan.shape, plan.card, cards=plan.cards)


def _head(told: dict[str, Any], plan: Plan, card: Card | None) -> list[str]:
    where = "one GPU" if card is None else f"{card.name}, {card.bytes / GIB:.1f} GiB usable"
    if plan.cards > 1:
        where = f"each of {plan.cards} × {where.removeprefix('one ')}"
    kind = "counted" if card is not None and not card.gpu else "predicted, not measured on a GPU"
    return [
        f"{told['recipe']}: {told['model']}, {told['parameters']:,} parameters, adapters of "
        f"{told['adapter_parameters']:,}",
        f"config: {told['config']}",
        "",
        f"Peak of memory by phase in GiB, on {where} ({kind})",
        "",
    ]


def _table(plan: Plan) -> list[str]:
    """Return the components of every phase's peak, one a row, and their sum."""
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.parts))
    rows = [["", *(phase.name for phase in plan.phases)]]
    rows += [[name, *(_gib(phase.parts.get(name)) for phase in plan.phases)] for name in names]
    rows.append(["peak", *(_gib(phase.total) for phase in plan.phases)])
    width = max(len(row[0]) for row in rows)
    return [(f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:])).rstrip() for row in rows]


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"


def _verdict(told: dict[str, Any], plan: Plan, card: Card | None) -> list[str]:
    """Say whether it fits, and what to change."""
    peak = f"{plan.peak.total / GIB:.1f} GiB at the peak, in {plan.peak.name}"
    if card is None:
        fitting = ", ".join(told["fitting_cards"]) or "no known card"
        return [f"needs {peak}", f"fits  {fitting}"]
    if plan.fits:
        return [f"fits: {peak}"]
    lines = [f"does not fit: {peak}"]
    if told["overrides"]:
        lines.append("fits with: " + " ".join(f"--set {override}" for override in told["overrides"]))
    else:
        larger = ", ".join(told["fitting_cards"]) or "none of the known cards alone"
        lines.append(f"no smaller setting makes it fit; as it is it fits {larger}")
        lines.append("several cards share the base with --gpus N --set launch.processes=N --set launch.strategy=fsdp2")
    return lines


def _rows(told: dict[str, Any], recipe: Recipe, card: Card | None) -> str:
    """Say how many replies a rollout writes at once, and who chose the number."""
    count = told["replies_at_once"]
    said = f"writes {count} {'reply' if count == 1 else 'replies'} at once"
    if recipe.ppo.rollout.batch_size != "auto":
        return said
    if card is None:
        return f"{said} (auto: on a card as many as fit)"
    return f"{said} (auto: {'as many as fit' if card.gpu else 'fixed on a CPU'})"


def _rest(told: dict[str, Any], work: Work, disk: Disk, bills: list[Bill], speed: float | None) -> list[str]:
    """Tell the work, the disk and the money."""
    export = told["phases"]["export"]["total"] / GIB
    rows = {
        "main memory": f"{export:.1f} GiB for the export, after training"
        + (f"; {plan_trunk / GIB:.1f} GiB for the trunk" if (plan_trunk := told["main_memory_for_trunk"]) else ""),
        "stage 1": f"{work.sft_steps:,} optimizer steps, {_count(work.sft_tokens)} tokens",
        "stage 2": f"{work.updates:,} updates, {work.ppo_steps:,} optimizer steps; {_count(work.written)} tokens "
        f"written (at most {_count(work.most_written)}), {_count(work.scored)} scored, {_count(work.learned)} learned",
        "time": f"{work.hours(speed):,.1f} hours at {speed:g} tokens a second, all kinds alike"
        if speed
        else f"{_count(work.tokens)} tokens in all; --tokens-per-second tells hours",
        "disk": f"{disk.total / 1e9:,.0f} GB: {disk.download / 1e9:,.1f} download, {disk.checkpoints / 1e9:,.1f} "
        f"checkpoints, {disk.export / 1e9:,.1f} export",
    }
    for bill in bills:
        rows[bill.role] = f"{bill.model}: {bill.calls:,.0f} calls, ${bill.dollars:,.2f} (estimate)"
    if not bills:
        rows["calls"] = "none: nobody is asked; --teacher prices the search that makes SFT examples"
    return ["", *(f"{label:<12} {text}" for label, text in rows.items()), *(f"note: {n}" for n in told["notes"])]


def _count(tokens: float) -> str:
    """Return a number of tokens in millions."""
    return f"{tokens / 1e6:,.1f}M" if tokens >= 1e5 else f"{tokens:,.0f}"
