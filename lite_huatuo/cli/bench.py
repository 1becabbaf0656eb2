"""`lite-huatuo bench`: what this machine does."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lite_huatuo.bench.checks import CHECKS, SIZES
from lite_huatuo.cli import terminal


@click.command("bench")
@click.option("--card", is_flag=True, required=True, help="Measure the graphics card.")
@click.option("--size", type=click.Choice(SIZES), default="7b", show_default=True, help="Of the random base.")
@click.option(
    "--only", multiple=True, metavar="CHECK", type=click.Choice(list(CHECKS)), help="Only this check; repeatable."
)
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), default=Path("card"), show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=10, show_default=True, help="Most time in all."
)
@click.option("--json", "as_json", is_flag=True, help="Print card.json instead of the table.")
def command(card: bool, size: str, only: tuple[str, ...], to: Path, minutes: float, as_json: bool) -> int:
    """Measure what this card does: memory by phase beside `plan`, tokens a second, whether the numbers are right.

    A base with random weights is made on the card; nothing is downloaded. Every check has a time limit, and one that
    fails is recorded while the others go on. card.json and card.md in the folder --to are ready to send: they hold no
    name of machine or user, no path, no key. Given again, the command goes on with what has not passed. Exits with 1
    where a check failed. --size tiny rehearses all of it on a CPU.

    \b
    lite-huatuo bench --card
    lite-huatuo bench --card --size tiny --to rehearsed
    """
    from lite_huatuo.bench import runner, table

    found = runner.run(only, size=size, to=to, minutes=minutes, note=lambda text: terminal.say(text, err=True))
    terminal.say(json.dumps(found, indent=1, ensure_ascii=False) if as_json else table.markdown(found))
    terminal.say(f"written: {to}/card.json and {to}/card.md", err=True)
    return 1 if table.failed(found) else 0
