"""`lite-huatuo verifier train`: a verifier adapter on a student's base."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import click

from lite_huatuo import jsonl
from lite_huatuo.cli import terminal
from lite_huatuo.errors import RecordError

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--judged", "files", multiple=True, required=True, type=FILE, help="A judged .jsonl file; repeatable.")
@click.option("--test", "tests", multiple=True, type=FILE, help="More judged files to measure on; repeatable.")
@click.option("--recipe", required=True, metavar="NAME|FILE", help="Whose base and adapter shape it has.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value; repeatable.")
@click.option("--to", required=True, type=FILE, help="The new folder to write.")
@click.option(
    "--mode",
    type=click.Choice(["head", "token"]),
    default="head",
    show_default=True,
    help="Judge by a linear head, or by the words True and False.",
)
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Replies per optimizer step.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=2e-4, show_default=True)
@click.option(
    "--max-length", type=click.IntRange(32), default=512, show_default=True, help="Tokens of a text to judge."
)
@click.option("--microbatch-tokens", type=click.IntRange(1), default=2048, show_default=True, help="Per forward pass.")
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="P(right) to be right.")
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads  [default: all cores but one]")
def train(
    files: tuple[Path, ...], tests: tuple[Path, ...], recipe: str, overrides: tuple[str, ...], to: Path,
    threshold: float, threads: int | None, seed: int, **settings: Any,
) -> None:  # fmt: skip
    """Train a verifier adapter on judged replies.

    A fifth of the questions is kept to test it, a tenth to calibrate it. Writes the adapter, its settings and a card
    with accuracy, precision, recall, F1 and calibration error, by language and length. The same command goes on after
    an interruption.

    \b
    lite-huatuo verifier train --recipe qwen7b --judged pairs/train.jsonl --test pairs/test.jsonl --to judge
    """
    _refuse(to)
    from lite_huatuo import lock, stopping
    from lite_huatuo import recipe as recipes
    from lite_huatuo.cli.display import Display
    from lite_huatuo.cli.train import quiet_libraries, use_threads
    from lite_huatuo.verifier import acceptance, card

    chosen = recipes.load(recipe, overrides)
    rows = [case for path in files for case in acceptance.read_judged(path)]
    more = {str(path): acceptance.read_judged(path) for path in tests}
    quiet_libraries(chosen.base.backend)
    use_threads(threads)
    from lite_huatuo.models import backends, run_base
    from lite_huatuo.training import verifier_train
    from lite_huatuo.training.verifier_checkpoint import RESULT, Checkpoints

    parts = verifier_train.split(rows, seed=seed)
    loaded = backends.load(**chosen.base.model_dump())
    shape = {name: getattr(chosen.adapter, name) for name in ("rank", "alpha", "targets")}
    base = {**chosen.base.model_dump(), **run_base.of(loaded)}
    identity = {"base": base, "judged replies": verifier_train.digest(rows), "seed": seed, **shape, **settings}
    work = Checkpoints(to.with_name(f".training-{to.name}"), identity)
    with lock.locked(to, "verifier train"), stopping.on_signals() as stop, Display() as display:
        _refuse(to)  # another process may have ended since
        verifier = verifier_train.train(
            loaded, parts, threshold=threshold, seed=seed, progress=display, checkpoints=work, stop=stop,
            **shape, **settings,
        )  # fmt: skip
        judged = {"test part": acceptance.judge(verifier, parts.test)}
        judged.update({name: acceptance.judge(verifier, cases) for name, cases in more.items()})
        counts = {name: len(getattr(parts, name)) for name in ("train", "calibration", "test")}
        told = {**shape, **settings, "threshold": threshold, "temperature": round(verifier.settings.temperature, 4)}
        reports = {name: acceptance.report(one) for name, one in judged.items()}
        page = card.render(str(to), chosen.base.model, {**told, "seed": seed}, counts, reports)
        verifier.save(work.folder / RESULT)
        jsonl.write_text(work.folder / RESULT / "README.md", page)
        os.replace(work.folder / RESULT, to)
        shutil.rmtree(work.folder)
    terminal.say(page)


def _refuse(to: Path) -> None:
    """Raise RecordError where the folder to write is there."""
    if to.exists():
        raise RecordError(f"{to}: already exists; give a new folder")
