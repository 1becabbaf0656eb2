"""`lite-huatuo rehearse`: a recipe's whole run on a tiny twin of its base, in minutes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import click

from lite_huatuo.cli import terminal

if TYPE_CHECKING:
    from lite_huatuo.rehearsal.run import Verdict
    from lite_huatuo.rehearsal.steps import Done


@click.command("rehearse")
@click.option("--recipe", "name", required=True, metavar="NAME|FILE", help="A shipped recipe or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value; repeatable.")
@click.option("--on", type=click.Choice(["cpu", "cuda"]), help="Where to run  [default: cuda if there is a card]")
@click.option("--keep", is_flag=True, help="Keep the folder of runs and logs.")
@click.option("--blame/--no-blame", default=True, help="After a failure, look for the setting that causes it.")
@click.option("--dry-run", is_flag=True, help="List the steps and what would stand in; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    overrides: tuple[str, ...],
    on: str | None,
    keep: bool,
    blame: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a whole recipe on a tiny twin of its base.

    Both stages, a kill, a resume, evaluation, export and report run with the recipe's own settings; only sizes,
    lengths and counts are small. What would stop the night's run stops here, with the setting that causes it. Exits
    with 1 if the recipe would not survive.

    \b
    lite-huatuo rehearse --recipe qwen7b
    lite-huatuo rehearse --recipe mine.yaml --set sft.optimizer=adamw
    """
    from lite_huatuo import recipe as recipes

    recipe = recipes.load(name, overrides)
    from lite_huatuo.cli.train import quiet_libraries, use_threads

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    quiet_libraries()
    use_threads(1)
    import torch

    from lite_huatuo.errors import BackendError
    from lite_huatuo.rehearsal import run

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if on == "cuda" and not cards:
        raise BackendError("--on cuda: no CUDA device here; leave it out, or give --on cpu")
    where = on or ("cuda" if cards else "cpu")
    if dry_run:
        stand_ins, steps = run.outline(recipe, on=where, cards=cards)
        _show_stand_ins(stand_ins)
        terminal.say("\n".join(steps))
        return
    verdict = run.rehearse(
        recipe, on=where, cards=cards, keep=keep, search=blame, begun=_show_stand_ins, tell=_show
    )
    terminal.say(json.dumps(verdict.facts(), ensure_ascii=False, indent=1) if as_json else text(recipe.name, verdict))
    ctx.exit(0 if verdict.survives else 1)


def _show_stand_ins(lines: list[str]) -> None:
    for line in lines:
        terminal.say(f"stands in: {line}", err=True)


def _show(done: Done) -> None:
    memory = "" if done.mib is None else f"{done.mib:6.0f} MiB"
    terminal.say(f"{done.name:<13}{done.seconds:6.1f} s  {memory:>10}  {done.wrong or 'ok'}", err=True)


def text(name: str, verdict: Verdict) -> str:
    """Return the verdict in a line."""
    if verdict.survives:
        seconds = sum(done.seconds for done in verdict.steps)
        found = f"{name} would survive: every step passed on a tiny twin of its base, {seconds:.0f} s in all"
        return "\n".join([*verdict.memory, found])
    cause = f"; without `{verdict.setting}` it passes" if verdict.setting else ""
    return f"{name} would not survive: {verdict.steps[-1].name}: {verdict.wrong}{cause}"
